"""nsllm-nir: spiking language models from snnTorch to NIR, Lava and FPGA HLS, spike for spike.

The public names load on first use, so that ``import nsllm_nir`` needs neither torch nor Lava.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "NSLLMConfig": "configuration",
    "NSLLMForCausalLM": "model",
    "NSLLMCache": "model",
    "SpikeCount": "neuron",
    "LeakyIntegrator": "neuron",
    "SpikingLinear": "quantization",
    "SpikingLinearAttention": "layers",
    "SpikingChannelMixer": "layers",
    "to_nir": "nir_export",
    "to_portable": "portable",
    "from_nir": "nir_import",
    "lower": "lowering",
    "Program": "program",
    "Trace": "trace",
    "quantize": "graph_quantization",
    "compare_quantization": "graph_quantization",
    "at_time_step": "time_step",
    "run": "verification",
    "verify": "verification",
    "generate": "verification",
    "Report": "verification",
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
