"""nsllm-nir: spiking language models from snnTorch to NIR, Lava and FPGA HLS, spike for spike.

The public names load on first use, so that ``import nsllm_nir`` needs neither torch nor Lava.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers see of the names below; a test holds both lists together
    from nsllm_nir.errors import NsllmNirError as NsllmNirError
    from nsllm_nir.graph.time_step import at_time_step as at_time_step
    from nsllm_nir.language_model.blocks.attention import SpikingLinearAttention as SpikingLinearAttention
    from nsllm_nir.language_model.blocks.mixer import SpikingChannelMixer as SpikingChannelMixer
    from nsllm_nir.language_model.cache import NSLLMCache as NSLLMCache
    from nsllm_nir.language_model.configuration import NSLLMConfig as NSLLMConfig
    from nsllm_nir.language_model.modeling import NSLLMForCausalLM as NSLLMForCausalLM
    from nsllm_nir.language_model.neuron import LeakyIntegrator as LeakyIntegrator
    from nsllm_nir.language_model.neuron import SpikeCount as SpikeCount
    from nsllm_nir.language_model.nir_export import to_nir as to_nir
    from nsllm_nir.language_model.nir_import import from_nir as from_nir
    from nsllm_nir.language_model.spiking_linear import SpikingLinear as SpikingLinear
    from nsllm_nir.lowering.lower import lower as lower
    from nsllm_nir.portable.profile import to_portable as to_portable
    from nsllm_nir.program.program import Program as Program
    from nsllm_nir.program.trace import Trace as Trace
    from nsllm_nir.quantization.quantize import compare_quantization as compare_quantization
    from nsllm_nir.quantization.quantize import quantize as quantize
    from nsllm_nir.verification.generate import generate as generate
    from nsllm_nir.verification.verify import Report as Report
    from nsllm_nir.verification.verify import run as run
    from nsllm_nir.verification.verify import verify as verify

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


if not TYPE_CHECKING:  # to a type checker, every name would exist

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
