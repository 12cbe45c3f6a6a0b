"""Configuration of the NSLLM family in the Hugging Face form."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from nsllm_nir.composites.registry import BLOCKS
from nsllm_nir.errors import InputError


class NSLLMConfig(PretrainedConfig):  # type: ignore[no-untyped-call] # of transformers
    """Sizes and number formats of a spiking language model.

    Args:
        vocab_size, hidden_size, intermediate_size, num_hidden_layers: model size; intermediate_size defaults to
            4 * hidden_size.
        levels: D, timesteps per token (largest spike count); one int, or one per layer (mixed timesteps).
        final_levels: D of the neurons that feed the output head.
        weight_bits: 2 (ternary), 4 or 8 for the layers; embedding and head use ``embedding_bits``.
        coding: of the neurons that read the signed residual stream, ``binary`` (counts >= 0) or ``ternary`` (counts of
            both signs); all other neurons are binary.
        state: ``vector`` or ``matrix`` (with num_attention_heads heads).
        denominator: normalise the read-out by the key count b.
        normalisation: ``none``, ``pooled`` (pooled inhibition) or ``rms`` (for ablations; not exportable).
        residual_fraction_bits, logit_fraction_bits, state_fraction_bits: fixed-point fractions.
        frozen: weights are stored as int8 (see `NSLLMForCausalLM.freeze`).
        blocks: names of each layer's blocks in the order of the residual stream; None is ``["attention", "mixer"]``.
    """

    model_type = "nsllm"

    def __init__(
        self,
        vocab_size: int = 256,
        hidden_size: int = 128,
        intermediate_size: int | None = None,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 4,
        levels: int | list[int] = 4,
        final_levels: int = 8,
        weight_bits: int = 8,
        embedding_bits: int = 8,
        coding: str = "ternary",
        state: str = "vector",
        denominator: bool = True,
        normalisation: str = "none",
        input_threshold: float = 0.5,
        residual_gain: float = 0.2,
        margin: float = 0.5,
        gate_margin: float = 0.5,
        residual_fraction_bits: int = 6,
        logit_fraction_bits: int = 8,
        state_fraction_bits: int = 7,
        frozen: bool = False,
        blocks: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.intermediate_size = 4 * hidden_size if intermediate_size is None else intermediate_size
        self.num_attention_heads = num_attention_heads
        self.levels, self.final_levels = levels, final_levels
        self.weight_bits, self.embedding_bits = weight_bits, embedding_bits
        self.coding, self.state, self.denominator, self.normalisation = coding, state, denominator, normalisation
        self.input_threshold, self.residual_gain, self.margin, self.gate_margin = (
            input_threshold,
            residual_gain,
            margin,
            gate_margin,
        )
        self.residual_fraction_bits, self.logit_fraction_bits, self.state_fraction_bits = (
            residual_fraction_bits,
            logit_fraction_bits,
            state_fraction_bits,
        )
        self.frozen = frozen
        self.blocks = ["attention", "mixer"] if blocks is None else list(blocks)
        self._check()
        super().__init__(**kwargs)

    def _check(self) -> None:
        for name, value, allowed in (
            ("coding", self.coding, ("binary", "ternary")),
            ("state", self.state, ("vector", "matrix")),
            ("normalisation", self.normalisation, ("none", "pooled", "rms")),
            ("weight_bits", self.weight_bits, (2, 4, 8)),
            ("embedding_bits", self.embedding_bits, (2, 4, 8)),
        ):
            if value not in allowed:
                raise InputError(f"NSLLMConfig.{name} must be one of {allowed}, got {value!r}")
        self._check_blocks()
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise InputError(f"NSLLMConfig.{name} must be at least 1, got {getattr(self, name)}")
        for name, values in (
            ("levels", self.levels if isinstance(self.levels, list) else [self.levels]),
            ("final_levels", [self.final_levels]),
        ):
            for value in values:
                if not 1 <= value <= 255:
                    raise InputError(f"NSLLMConfig.{name} must be in [1, 255], got {value}")
        if self.state == "matrix" and self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"NSLLMConfig.hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if isinstance(self.levels, list) and len(self.levels) != self.num_hidden_layers:
            raise InputError(f"NSLLMConfig.levels has {len(self.levels)} entries for {self.num_hidden_layers} layers")

    def _check_blocks(self) -> None:
        if not self.blocks or len(set(self.blocks)) != len(self.blocks) or not set(self.blocks) <= set(BLOCKS):
            raise InputError(f"NSLLMConfig.blocks must name some of {tuple(BLOCKS)}, each once, got {self.blocks}")

    def layer_levels(self, layer: int) -> int:
        """D of one layer."""
        return self.levels[layer] if isinstance(self.levels, list) else self.levels
