"""What people read is true: links, paths, commands and code of every page, the ways of the README, public names."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main

import nsllm_nir
from nsllm_nir import exporters
from nsllm_nir.cli import main as cli
from nsllm_nir.language_model.checkpoints import shipped_checkpoint

ROOT = Path(__file__).parent.parent
TEMPLATES = {"benchmarks/hls4ml_peer_report.md"}  # with fields; the page that comes out is among the pages
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md", "benchmarks/*.md")
    for path in sorted(ROOT.glob(pattern))
    if path.relative_to(ROOT).as_posix() not in TEMPLATES
}
README = PAGES["README.md"]
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
FOLDERS = "nsllm_nir|exporters|hw|tests|benchmarks|examples|docs"
# Lines of the README's paths that take minutes, or need what a test must not do; they are parsed, not run.
NOT_RUN = (
    "make setup",
    ". .venv/bin/activate",
    "nsllm-nir doctor",
    "make demo",
    "nsllm-nir train",
    "nsllm-nir build model.nir --target ulx3s",
)


def fenced(text: str, *languages: str) -> list[str]:
    """Contents of the fenced blocks of a page in one of these languages ("": none named)."""
    found = re.findall(r"^```(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def command_lines(text: str) -> list[str]:
    """Shell lines of a page: of blocks without language or for a shell, behind a prompt, or indented by four."""
    inside = "\n".join(fenced(text, "", "sh", "console")).splitlines()
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = inside + re.findall(r"^ {4}(\S.*)$", outside, re.MULTILINE)
    return [line.removeprefix("$ ") for line in lines]


def on_pages(kind: str) -> list[tuple[str, str]]:
    """(page, command line) of every line of all pages that starts with ``kind``."""
    return [(page, line) for page, text in PAGES.items() for line in command_lines(text) if line.startswith(f"{kind} ")]


def section(title: str) -> str:
    """A section of the README, without its heading."""
    text = re.split(rf"^#+ {re.escape(title)}\n", README, flags=re.MULTILINE)[1]
    return re.split(
        r"^#+ ",
        re.sub(r"^```.*?^```$", lambda block: block[0].replace("\n#", "\n "), text, flags=re.MULTILINE | re.DOTALL),
        flags=re.MULTILINE,
    )[0]


def anchors(text: str) -> set[str]:
    """What links to headings of a page may name: as on code hosts, and as in MyST."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_scan_sees_the_pages() -> None:
    assert {"README.md", "docs/index.md", "docs/adding.md", "examples/README.md", "benchmarks/quality.md"} <= set(PAGES)
    assert len(on_pages("nsllm-nir")) > 30 and len(on_pages("make")) > 5 and len(on_pages("python")) > 2
    assert "nsllm-nir build model.nir --target BOARD --out DIR" in " ".join(command_lines(PAGES["docs/building.md"]))
    assert "python examples/digits_classifier.py" in command_lines(PAGES["examples/README.md"])


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {link}"


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"CHANGELOG.md", "docs/adding.md"}))
def test_paths_and_modules_exist(page: str) -> None:
    """Paths in back quotes, and dotted names of the package. Changes name what was; docs/adding.md, what comes."""
    for path in re.findall(rf"`((?:{FOLDERS})/[\w./*-]+)`", PAGES[page]):
        assert list(ROOT.glob(path)), f"{page}: {path}"
    for name in re.findall(r"\bnsllm_nir(?:\.\w+)+", PAGES[page]):
        assert name == exporters.GROUP or resolves(name), f"{page}: {name}"


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return hasattr(importlib.import_module(module), attribute)
    return True


@pytest.mark.parametrize(("page", "line"), on_pages("nsllm-nir"))
def test_commands_exist(page: str, line: str) -> None:
    """Every command line parses, with its options; nothing runs."""
    name, *arguments = shlex.split(line, comments=True)[1:]
    COMMANDS[name].make_context(name, arguments)


@pytest.mark.parametrize(("page", "line"), on_pages("make") + on_pages(".venv/bin/pytest") + on_pages("python"))
def test_targets_scripts_and_modules_exist(page: str, line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    words = [word for word in words if "=" not in word]
    if program == "make" and "-C" not in words:
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
    elif program == "python" and words[0] == "-m":
        assert resolves(words[1]), line
    elif program != "make" and words[0] not in ("-c", "own.py"):
        assert (ROOT / words[0]).exists(), line


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        extra
        for text in PAGES.values()
        for found in re.findall(r"pip install '[^'\[]*\[([\w,]+)\]", text)
        for extra in found.split(",")
    }
    assert len(named) >= 5
    assert named <= set(project["optional-dependencies"])


def python_blocks() -> list[tuple[str, str]]:
    """(page, code) of every block of Python."""
    return [(page, block) for page, text in PAGES.items() for block in fenced(text, "python")]


@pytest.mark.parametrize(("page", "code"), python_blocks())
def test_python_code_parses_and_its_imports_resolve(page: str, code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            assert all(resolves(alias.name) for alias in node.names), page
        elif isinstance(node, ast.ImportFrom):
            assert all(resolves(f"{node.module}.{alias.name}") for alias in node.names), f"{page}: {ast.unparse(node)}"


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shell(line: str, folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, line + done.stdout + done.stderr
    return done.stdout


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 160
    for path in ("I have a .nir file", "I have a snnTorch network", "I want a language model", "I want an FPGA"):
        lines = [line for line in section(path).splitlines() if line.strip() and not line.startswith("```")]
        assert 3 < len(lines) <= 15, path


def test_readme_names_every_backend() -> None:
    words = section("Words")
    table = PAGES["docs/backends.md"].split("## What is exact")[0]
    assert set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)) == set(exporters.names())
    assert all(f"`{name}`" in words for name in exporters.names())


def test_readme_paths_run_in_their_order(tmp_path: Path) -> None:
    """The lines of "Choose your path" as they stand; the shipped model takes the place of the trained one."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shutil.copytree(shipped_checkpoint(), tmp_path / "run")
    paths = README.split("## Choose your path")[1].split("\n## ")[0]
    left, passed = set(NOT_RUN), 0
    for language, block in re.findall(r"^```(\S+)\n(.*?)^```$", paths, re.MULTILINE | re.DOTALL):
        if language == "python":
            assert run(block, tmp_path).count("  exact\n") == 2
            continue
        for line in block.splitlines():
            if skipped := [start for start in NOT_RUN if line.startswith(start)]:
                left -= set(skipped)
                continue
            passed += "PASS" in shell(line, tmp_path)
    assert not left, "lines that are no longer in the README"
    assert passed == 2


def test_language_model_guide_runs(tmp_path: Path) -> None:
    (code,) = fenced(PAGES["docs/language_model.md"], "python")
    assert run(code, tmp_path).count("exact") == 4


def test_architecture_lists_the_rooms_in_their_order() -> None:
    source = ast.parse((ROOT / "tests" / "test_repository.py").read_text())
    (rooms,) = [
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROOMS"
    ]
    text = PAGES["docs/architecture.md"].split("## Rooms")[1].split("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == rooms


def test_every_page_is_in_the_navigation() -> None:
    listed = set()
    for page in ("docs/index.md", "docs/evidence.md"):
        for block in fenced(PAGES[page], "{toctree}"):
            for line in block.splitlines():
                if line and not line.startswith(":"):
                    name = re.sub(r".*<(.*)>$", r"\1", line)
                    listed.add(os.path.normpath(f"docs/{name}") + ".md")
    assert listed | {"docs/index.md"} == set(PAGES)


def test_reference_has_every_public_name() -> None:
    named = set(re.findall(r"^\.\. auto(?:function|class):: nsllm_nir\.(\w+)$", PAGES["docs/api.md"], re.MULTILINE))
    assert named == set(nsllm_nir.__all__) - {"NsllmNirError"}, "errors stand there as a module"
    assert "automodule:: nsllm_nir.errors" in PAGES["docs/api.md"]


@pytest.mark.parametrize("name", nsllm_nir.__all__)
def test_public_names_are_documented(name: str) -> None:
    """Classes with their own public methods and properties; `__init__` is described with its class."""
    value = getattr(nsllm_nir, name)
    assert value.__doc__, name
    if inspect.isclass(value):
        for member, found in vars(value).items():
            if not member.startswith("_") and (inspect.isfunction(found) or isinstance(found, property)):
                assert found.__doc__, f"{name}.{member}"


def test_editors_see_the_names_that_load_on_first_use() -> None:
    source = ast.parse((ROOT / "nsllm_nir" / "__init__.py").read_text())
    (block,) = [node for node in source.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {name: f"nsllm_nir.{home}.{name}" for name, home in nsllm_nir._HOME.items()}


def test_type_checkers_see_the_types(tmp_path: Path) -> None:
    lines = [
        "import nsllm_nir",
        *(f"reveal_type(nsllm_nir.{name})" for name in nsllm_nir.__all__),
        "nsllm_nir.no_such_name",
    ]
    (tmp_path / "user.py").write_text("\n".join(lines) + "\n")
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache")]
    # In a process of its own, which is told where the package is: an editable installation does not say it.
    command = [sys.executable, "-m", "mypy", *options, str(tmp_path / "user.py")]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    report, status = done.stdout + done.stderr, done.returncode
    revealed = re.findall(r'Revealed type is "(.*)"', report)
    assert len(revealed) == len(nsllm_nir.__all__), report
    assert not [found for found in revealed if found == "Any"]
    assert status == 1 and 'Module has no attribute "no_such_name"' in report
