"""Which backends and tools run here, found out by running them, and the command that installs what is missing."""

from __future__ import annotations

import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path

import numpy as np

from nsllm_nir import exporters
from nsllm_nir.errors import NsllmNirError, ToolNotFoundError
from nsllm_nir.hw import synthesis
from nsllm_nir.lowering.lower import lower
from nsllm_nir.processes import run
from nsllm_nir.program import reference
from nsllm_nir.program.probe import probe_program
from nsllm_nir.program.trace import compare, first_difference

TOOLS = {"g++": "apt-get install g++", "make": "apt-get install make"}


@dataclass(frozen=True)
class Check:
    """kind: ``backend``, ``tool`` or ``versions``; message: what is wrong, and what helps ("" if it runs).

    about: of a backend, what runs.
    """

    name: str
    kind: str
    runs: bool
    version: str
    message: str
    about: str = ""


def check_backend(name: str, *, quick: bool) -> Check:
    """Ask for the version; unless ``quick``, also run a tiny program and compare it with the reference."""
    backend = exporters.load(name)
    try:
        version = backend.version()
        if not quick:
            _run(backend.tiny() if isinstance(backend, exporters.Buildable) else backend)
    except NsllmNirError as error:
        state = "missing" if isinstance(error, ToolNotFoundError) else "broken"
        return Check(name, "backend", False, state, str(error), backend.about.runs)
    return Check(name, "backend", True, version, "", backend.about.runs)


def _run(backend: exporters.Backend) -> None:
    """Raises NsllmNirError if the backend fails or differs."""
    tokens = np.random.default_rng(0).integers(0, 4, 12)
    with tempfile.TemporaryDirectory() as folder:
        program = lower(_model_file(Path(folder))) if backend.about.models_only else probe_program()
        spikes = reference.one_hot(tokens, program.inputs[0].size)
        results = compare(reference.run(program, spikes), backend.compile(program).run(spikes))
    if first := first_difference(results):
        raise NsllmNirError(f"it differs from the reference, first at {first}")


def _model_file(folder: Path) -> Path:
    """A backend that rebuilds a model from its file gets a tiny model instead of a program."""
    from nsllm_nir.language_model.configuration import NSLLMConfig
    from nsllm_nir.language_model.modeling import NSLLMForCausalLM
    from nsllm_nir.language_model.nir_export import to_nir

    path = folder / "probe.nir"
    model = NSLLMForCausalLM(NSLLMConfig(vocab_size=4, hidden_size=8, num_hidden_layers=1))
    to_nir(model.eval(), path)  # type: ignore[no-untyped-call] # of transformers
    return path


def check_tool(name: str, install: str) -> Check:
    """First line of ``name --version``."""
    if shutil.which(name) is None:
        return Check(name, "tool", False, "missing", f"{name} is not on PATH; install it with: {install}")
    try:
        output = run(name, [name, "--version"], 30.0)
    except NsllmNirError as error:
        return Check(name, "tool", False, "broken", str(error))
    return Check(name, "tool", True, output.splitlines()[0], "")


def check_synthesis_tool(name: str) -> Check:
    """A tool of `nsllm-nir build`: the package it comes from (it does not run: WebAssembly takes seconds to start)."""
    try:
        return Check(name, "tool", True, synthesis.version(name), "")
    except ToolNotFoundError as error:
        return Check(name, "tool", False, "missing", str(error))


def tested_versions() -> dict[str, set[str]]:
    """Versions of each package that the project is tested with: those of the files in ``nsllm_nir/constraints``."""
    versions: dict[str, set[str]] = {}
    for name in ("tested.txt", "oldest.txt"):
        text = (files("nsllm_nir") / "constraints" / name).read_text(encoding="utf-8")
        for package, version in re.findall(r"^([a-z0-9-]+)==(\S+)$", text, re.MULTILINE):
            versions.setdefault(package, set()).add(version)
    return versions


def check_versions() -> Check:
    """Name the installed packages whose versions were not tested; a build's own mark (``+cpu``) does not count."""
    tested, untested = tested_versions(), []
    for package, versions in sorted(tested.items()):
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version(package).split("+")[0]
            if version not in versions:
                untested.append(f"{package} {version} ({' or '.join(sorted(versions))})")
    command = f"pip install --constraint {files('nsllm_nir') / 'constraints' / 'tested.txt'} PACKAGE ..."
    message = (
        f"these versions were not tested (tested ones in brackets): {', '.join(untested)}; install with: {command}"
    )
    return Check("packages", "versions", not untested, f"{len(untested)} untested", message if untested else "")


def check_all(
    backends: Iterable[str], *, quick: bool = False, progress: Callable[[str], None] = lambda message: None
) -> list[Check]:
    """Python, the build tools, the packages' versions, the tools of synthesis, then each backend."""
    checks = [Check("python", "tool", sys.version_info >= (3, 11), platform.python_version(), "")]
    checks += [check_tool(name, install) for name, install in TOOLS.items()]
    checks.append(check_versions())
    checks += [check_synthesis_tool(name) for name in synthesis.PACKAGES]
    for name in backends:
        progress(name)
        checks.append(check_backend(name, quick=quick))
    return checks
