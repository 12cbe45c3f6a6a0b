"""Backend ``snntorch``: the torch model rebuilt from the NIR file, in binary mode, timesteps unrolled."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import InputError, LossyConversionError, ToolNotFoundError
from nsllm_nir.exporters import About
from nsllm_nir.program import Program
from nsllm_nir.program.reference import check_inputs
from nsllm_nir.program.trace import Trace

if TYPE_CHECKING:
    from nsllm_nir.language_model.cache import NSLLMCache
    from nsllm_nir.language_model.modeling import NSLLMForCausalLM

INSTALL = "pip install 'nsllm-nir[torch]'"


def _module_of(node: str) -> str:
    """Path of the torch module that computes a program node."""
    return re.sub(r"^layer_(\d+)\.", lambda m: f"layers.{int(m[1])}.", node)


def _tokens(program: Program, inputs: NDArray[np.integer]) -> NDArray[np.int64]:
    spikes = check_inputs(program, inputs)
    if (spikes.sum(1) != 1).any():
        raise InputError(
            "a language model reads exactly one token spike per step; "
            "use the reference, lava or hls backend for other inputs"
        )
    ids: NDArray[np.int64] = spikes.argmax(1)
    return ids


def trace_model(model: NSLLMForCausalLM, program: Program, inputs: NDArray[np.integer]) -> Trace:
    """Run a torch model on token spikes (tokens, vocabulary) and record what its modules emitted, in program nodes."""
    import torch

    recorded: dict[str, NDArray[np.int64]] = {program.inputs[0].name: check_inputs(program, inputs)}
    modules = dict(model.named_modules())

    def record(node: str) -> Any:
        def hook(_module: Any, _inputs: Any, out: Any) -> None:
            spikes = out[0] if isinstance(out, tuple) else out
            recorded[node] = spikes.sum(0)[0].round().to(torch.int64).numpy()

        return hook

    with ExitStack() as stack, torch.no_grad():
        for node in program.traced:
            if program.signals[node].spikes and node not in recorded:
                stack.callback(modules[_module_of(node)].register_forward_hook(record(node)).remove)
        logits = model(torch.from_numpy(_tokens(program, inputs))[None]).logits[0]
    recorded[program.outputs[0]] = _integer_logits(model, logits)
    return Trace({node: recorded[node] for node in program.traced})


def _integer_logits(model: NSLLMForCausalLM, logits: Any) -> NDArray[np.int64]:
    scaled: NDArray[np.int64] = (
        (logits.double().numpy() * 2.0**model.config.logit_fraction_bits).round().astype(np.int64)
    )
    return scaled


@dataclass
class _Session:
    model: NSLLMForCausalLM
    program: Program
    cache: NSLLMCache

    def step(self, spikes: NDArray[np.integer]) -> NDArray[np.int64]:
        import torch

        with torch.no_grad():
            out = self.model(
                torch.from_numpy(_tokens(self.program, np.asarray(spikes)[None]))[None],
                cache=self.cache,
            )
        return _integer_logits(self.model, out.logits[0, -1])

    def reset(self) -> None:
        self.cache.reset()


@dataclass(frozen=True)
class _Executable:
    model: NSLLMForCausalLM
    program: Program

    def run(self, inputs: NDArray[np.integer]) -> Trace:
        return trace_model(self.model, self.program, inputs)

    @contextmanager
    def open(self) -> Iterator[_Session]:
        from nsllm_nir.language_model.cache import NSLLMCache

        yield _Session(self.model, self.program, NSLLMCache(len(self.model.layers)))


@dataclass(frozen=True)
class _SnnTorch:
    name: str = "snntorch"
    about = About(
        "the torch model rebuilt from the NIR file, timesteps unrolled",
        "NSLLM models that `to_nir` wrote",
        "torch, snnTorch",
        generates=True,
        models_only=True,
    )

    def version(self) -> str:
        try:
            return f"snntorch {metadata.version('snntorch')}, torch {metadata.version('torch')}"
        except metadata.PackageNotFoundError as error:
            raise ToolNotFoundError(
                f"the snntorch backend needs the package {error.name!r}; install it with: {INSTALL}"
            ) from error

    def compile(self, program: Program) -> _Executable:
        self.version()
        if program.origin is None:
            raise LossyConversionError(
                "the snntorch backend rebuilds language models from NIR files that to_nir wrote, "
                "and this program comes from no such file; use another backend"
            )
        from nsllm_nir.language_model.nir_import import from_nir

        return _Executable(from_nir(program.origin).set_binary_mode(), program)


backend = _SnnTorch()
