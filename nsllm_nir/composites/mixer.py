"""Spiking channel mixer: its integers, operations and NIR primitives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from nsllm_nir.composites.primitives import (
    BlockInputNumbers,
    Edges,
    Ints,
    Nodes,
    Projection,
    ResidualComposite,
    Settings,
    add_block_input,
    add_count,
    add_shift,
    add_write,
    linear,
    port,
    projection,
    read_block_input,
    read_delay,
    read_step,
)
from nsllm_nir.graph import Graph, chain
from nsllm_nir.program import Count, Delay, Op


@dataclass(frozen=True, eq=False)
class MixerNumbers(ResidualComposite):
    """Spiking channel mixer."""

    OP: ClassVar[str] = "spiking_channel_mixer"
    PART: ClassVar[str] = "mixer"

    input: BlockInputNumbers
    delay: Ints
    up: Projection
    up_step: Ints
    levels: int
    down: Projection

    def ops(self, prefix: str, source: str) -> list[Op]:
        """Operations named ``prefix + ...``; the last one is ``prefix + 'down'``, the residual update."""
        return [
            *self.input.ops(prefix + "input.", source),
            Delay(prefix + "shift", prefix + "input.spikes", self.delay),
            self.up.op(prefix + "up", prefix + "shift"),
            Count(prefix + "up_spikes", prefix + "up", self.up_step, self.levels),
            self.down.op(prefix + "down", prefix + "up_spikes"),
        ]

    def primitives(self) -> tuple[Nodes, Edges]:
        nodes: Nodes = {"input": port("Input", self.delay.size)}
        edges: Edges = []
        add_block_input(nodes, edges, "input.", "input", self.input)
        add_shift(nodes, edges, self.delay)
        nodes["up"] = linear(self.up, True)
        edges += chain("shift", "up")
        add_count(nodes, edges, "up_spikes", "up", self.up_step, self.levels)
        add_write(nodes, edges, "down", "up_spikes", self.down)
        return nodes, edges

    @classmethod
    def read(cls, graph: Graph) -> Self:
        up_step, levels, _ = read_step(graph, "up_spikes")
        return cls(
            input=read_block_input(graph, "input."),
            delay=read_delay(graph),
            up=projection(graph, "up"),
            up_step=up_step,
            levels=levels,
            down=projection(graph, "down", "down.scale"),
        )

    def settings(self) -> Settings:
        return [*self.input.settings(), ("levels", self.levels), ("intermediate_size", self.up.weight.shape[0])]
