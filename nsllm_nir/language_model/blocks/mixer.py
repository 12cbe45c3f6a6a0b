"""Spiking channel mixer as a torch module."""

from __future__ import annotations

import torch
from torch import Tensor

from nsllm_nir.composites.mixer import MixerNumbers
from nsllm_nir.composites.primitives import token_shift
from nsllm_nir.language_model.blocks.base import (
    BlockState,
    ResidualBlock,
    check_delay,
    input_projection,
    layer_numbers,
    load_layer,
    load_step,
    residual_write,
    shifted,
    step_numbers,
)
from nsllm_nir.language_model.configuration import NSLLMConfig
from nsllm_nir.language_model.neuron import SpikeCount, TokenShift


class SpikingChannelMixer(ResidualBlock[MixerNumbers]):
    """``W_down Count(W_up x)``: the saturating spike count is the nonlinearity of the feed-forward part."""

    def __init__(self, config: NSLLMConfig, levels: int) -> None:
        super().__init__(config, levels)
        self.shift = TokenShift(config.hidden_size)
        self.up = input_projection(config, config.hidden_size, config.intermediate_size)
        self.up_spikes = SpikeCount(config.intermediate_size, levels, margin=config.margin)
        self.down = residual_write(config, config.intermediate_size)

    def forward(self, h: Tensor, state: BlockState) -> Tensor:
        """h: (B, N, C) to the residual update (B, N, C); entries of ``state`` are replaced."""
        x = shifted(self.shift, self.input(h), state)
        update: Tensor = self.down(self.up_spikes(*self.up(x)))[0]
        return update

    @torch.no_grad()
    def numbers(self) -> MixerNumbers:
        """The integers of the composite."""
        return MixerNumbers(
            input=self.input.numbers(),
            delay=token_shift(self.up.inputs),
            up=layer_numbers(self.up),
            up_step=step_numbers(self.up_spikes, self.up.unit()),
            levels=self.up_spikes.levels,
            down=layer_numbers(self.down, self.residual_fraction_bits),
        )

    def load(self, numbers: MixerNumbers, where: str) -> None:
        """Take the integers of a file, of this block at ``where``.

        Raises:
            GraphError: sizes or constants that this block cannot hold.
        """
        check_delay(numbers.delay, where)
        self.input.load(numbers.input, where)
        load_layer(self.up, numbers.up, where)
        load_step(self.up_spikes, numbers.up_step, where)
        load_layer(self.down, numbers.down, where, self.residual_fraction_bits)


BLOCK = SpikingChannelMixer
