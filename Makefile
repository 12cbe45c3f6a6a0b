# Two commands: `make demo` runs the main job, `make test` the tests. Each sets up what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The versions that the equivalence was measured with.
TORCH := torch==2.13.0
LAVA := lava-nc==0.10.0
NORSE := norse==1.1.0

.PHONY: demo test check docs setup
demo: $(STAMP)
	$(BIN)/nsllm-nir demo --out out/demo

test: $(STAMP)
	$(BIN)/pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site, out/site/docs/index.html; a broken link or an undocumented name is an error.
docs: $(STAMP)
	$(BIN)/pip install --quiet -e '.[docs]'
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs -d out/doctrees . out/site

setup: $(STAMP)

$(STAMP): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d; use: make PYTHON=python3.11" % sys.version_info[:2])'
	@command -v g++ >/dev/null || { echo "a C++ compiler is needed; install it with: apt-get install g++" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(TORCH)
	$(BIN)/pip install -e '.[torch,lava,rtl,synthesis,test]'
	# lava-nc's metadata refuses Python 3.11 and norse's drags in torchvision; both run without.
	$(BIN)/pip install --no-deps --ignore-requires-python $(LAVA)
	$(BIN)/pip install --no-deps $(NORSE)
	touch $@
