"""nsllm-nir: spiking language models from snnTorch to NIR, Lava and FPGA HLS, spike for spike.

The public names load on first use, so that ``import nsllm_nir`` needs neither torch nor Lava.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "NSLLMConfig": "language_model.configuration",
    "NSLLMForCausalLM": "language_model.modeling",
    "NSLLMCache": "language_model.cache",
    "SpikeCount": "language_model.neuron",
    "LeakyIntegrator": "language_model.neuron",
    "SpikingLinear": "language_model.spiking_linear",
    "SpikingLinearAttention": "language_model.blocks.attention",
    "SpikingChannelMixer": "language_model.blocks.mixer",
    "to_nir": "language_model.nir_export",
    "to_portable": "portable.profile",
    "from_nir": "language_model.nir_import",
    "lower": "lowering.lower",
    "Program": "program.program",
    "Trace": "program.trace",
    "quantize": "quantization.quantize",
    "compare_quantization": "quantization.quantize",
    "at_time_step": "graph.time_step",
    "run": "verification.verify",
    "verify": "verification.verify",
    "generate": "verification.generate",
    "Report": "verification.verify",
    "NsllmNirError": "errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
