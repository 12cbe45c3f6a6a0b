"""Rules of the repository: packages, direction of imports, light imports, help of every command."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from nsllm_nir import exporters
from nsllm_nir.cli import main as cli

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"nsllm_nir": "nsllm_nir", "exporters": "nsllm_nir.exporters", "hw": "nsllm_nir.hw"}
# The rooms of the package in the direction of imports: each imports itself and those in front of it.
ROOMS = (
    "errors",
    "files",
    "processes",
    "templates",
    "notebook",
    "program",
    "graph",
    "composites",
    "lowering",
    "quantization",
    "portable",
    "snntorch_network",
    "language_model",
    "hw",
    "exporters",
    "verification",
    "report",
    "fpga_build",
    "demo",
    "cli",
)
USES_TORCH = {"language_model", "snntorch_network"}
TORCH = {"torch", "snntorch", "transformers", "tokenizers", "safetensors", "accelerate", "datasets"}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package by its import name."""
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if "exporters" not in parts and "hw" not in parts:
                yield ".".join([package, *(part for part in parts if part != "__init__")]), path


MODULES = dict(modules())


def imported(path: Path, module: str, *, inside: bool) -> set[str]:
    """Full names that a module imports when it loads, or (``inside``) anywhere, type checking left out."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not inside:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{origin}.{alias.name}" for alias in node.names}
        pending.extend(ast.iter_child_nodes(node))
    return found


def of(module: str, *, inside: bool) -> set[str]:
    return imported(MODULES[module], module, inside=inside)


def home(name: str) -> str | None:
    """The module that a full name stands in, or None if it is not this package's."""
    while name.startswith("nsllm_nir"):
        if name in MODULES:
            return name
        name = name.rpartition(".")[0]
    return None


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_the_scan_sees_the_package() -> None:
    assert len(MODULES) > 30
    assert {"nsllm_nir.cli.main", "nsllm_nir.exporters.lava_worker.engine", "nsllm_nir.hw.toolchain"} <= set(MODULES)
    assert "torch" in roots(of("nsllm_nir.language_model.modeling", inside=False))
    assert "torch" not in roots(of("nsllm_nir.cli.main", inside=False))
    assert "torch" in roots(of("nsllm_nir.cli.models", inside=True))
    assert "nsllm_nir.errors.InputError" in of("nsllm_nir.exporters.snntorch", inside=False)


def test_packages_are_those_that_exist() -> None:
    found = {name if path.name == "__init__.py" else "" for name, path in MODULES.items()} - {""}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_every_file_of_the_package_is_packed() -> None:
    """What is no Python module is in the package data."""
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for folder, package in FOLDERS.items():
        packed = {
            path
            for name, patterns in data.items()
            if name == package or (name.startswith(f"{package}.") and name not in FOLDERS.values())
            for pattern in patterns
            for path in (ROOT / folder / name[len(package) + 1 :]).glob(pattern)
        }
        other = {path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
        assert other == packed, f"{package}: add to package-data {sorted(map(str, other - packed))}"


def test_layout_links() -> None:
    for name in ("exporters", "hw"):
        link = ROOT / "nsllm_nir" / name
        assert link.is_symlink() and link.readlink() == Path("..") / name


@pytest.mark.parametrize("module", MODULES)
def test_torch_only_where_models_are(module: str) -> None:
    if module.removeprefix("nsllm_nir.").split(".")[0] not in USES_TORCH:
        assert not roots(imported(MODULES[module], module, inside=False)) & TORCH


@pytest.mark.parametrize("module", MODULES)
def test_lava_only_in_its_worker(module: str) -> None:
    if not module.startswith("nsllm_nir.exporters.lava_worker"):
        assert "lava" not in roots(imported(MODULES[module], module, inside=True))


def test_every_module_has_a_room() -> None:
    found = {name.split(".")[1] for name in MODULES if "." in name}
    assert found == set(ROOMS)


@pytest.mark.parametrize("module", [name for name in MODULES if "." in name])
def test_imports_point_one_way(module: str) -> None:
    """Also those inside of functions: a room never imports one behind it in `ROOMS`."""
    room = ROOMS.index(module.split(".")[1])
    wrong = [
        name
        for name in of(module, inside=True)
        if name.startswith("nsllm_nir.") and ROOMS.index(name.split(".")[1]) > room
    ]
    assert not wrong, f"{module} imports {wrong}, of a room behind its own"


def test_no_circles_between_modules() -> None:
    """Over all imports, also those inside of functions; a package's own file is not counted against its modules."""
    arrows = {
        module: {found for name in of(module, inside=True) if (found := home(name)) and found != module}
        for module in MODULES
        if MODULES[module].name != "__init__.py"
    }
    left = dict(arrows)
    while leaves := [name for name, reads in left.items() if not reads & set(left)]:
        for name in leaves:
            del left[name]
    assert not left, f"these modules import each other: {sorted(left)}"


@pytest.mark.parametrize(
    "statement", ["import nsllm_nir", "import nsllm_nir.cli.main", "from nsllm_nir import lower, verify, Program"]
)
def test_import_is_light(statement: str) -> None:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "nsllm_nir" in loaded
    assert not loaded & {"torch", "snntorch", "transformers", "lava", "matplotlib"}


def test_every_command_and_option_has_help() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert set(commands) == {
        "train",
        "quantize",
        "export",
        "run",
        "verify",
        "generate",
        "build",
        "estimate",
        "doctor",
        "demo",
    }
    for name, command in commands.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.name == "help" or parameter.help, f"{name} {parameter.name}"


def test_the_page_of_backends_is_what_they_say_of_themselves(request: pytest.FixtureRequest) -> None:
    path = ROOT / "docs" / "backends.md"
    page = path.read_text(encoding="utf-8")
    old = page[page.index("| name |") :].split("\n\n")[0].rstrip()
    new = exporters.table(exporters.load(name) for name in exporters.names())
    if request.config.getoption("--update-golden"):
        path.write_text(page.replace(old, new), encoding="utf-8")
        old = new
    assert old == new, "after checking the change run: pytest --update-golden tests/test_repository.py -k backends"
