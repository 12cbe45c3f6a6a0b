# Two commands: `make demo` runs the main job, `make test` the tests. Each sets up what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# All versions; `make upgrade` raises them.
TESTED := nsllm_nir/constraints/tested.txt
DEMO := $(VENV)/.demo
STAMP := $(VENV)/.installed

.PHONY: demo test check docs setup upgrade
demo: $(DEMO)
	$(BIN)/nsllm-nir demo --out out/demo

test: $(STAMP)
	$(BIN)/pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site, out/site/docs/index.html; a broken link or an undocumented name is an error.
docs: $(STAMP)
	$(BIN)/pip install --quiet -c $(TESTED) -e '.[docs]'
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs -d out/doctrees . out/site

setup: $(STAMP)

upgrade: $(STAMP)
	$(BIN)/python tools/upgrade.py

$(DEMO): pyproject.toml Makefile $(TESTED)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d; use: make PYTHON=python3.11" % sys.version_info[:2])'
	@command -v g++ >/dev/null || { echo "a C++ compiler is needed; install it with: apt-get install g++" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	# torch first and alone, so that nothing else chooses its build.
	$(BIN)/pip install -c $(TESTED) torch
	$(BIN)/pip install -c $(TESTED) -e '.[torch,lava,rtl]'
	# lava-nc's metadata refuses Python 3.11; it runs.
	$(BIN)/pip install -c $(TESTED) --no-deps --ignore-requires-python lava-nc
	touch $@

$(STAMP): $(DEMO)
	$(BIN)/pip install -c $(TESTED) -e '.[torch,lava,rtl,synthesis,gowin,datasets,test,check]'
	# norse's metadata drags in torchvision; it runs without.
	$(BIN)/pip install -c $(TESTED) --no-deps norse
	touch $@
