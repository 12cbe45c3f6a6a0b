"""Spiking linear attention with a vector state: its integers, operations and NIR primitives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

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
    add_gate,
    add_integrate,
    add_lines,
    add_shift,
    add_write,
    linear,
    port,
    projection,
    read_array,
    read_block_input,
    read_delay,
    read_step,
)
from nsllm_nir.graph import Graph, chain
from nsllm_nir.program import Count, Delay, Gate, Integrate, Op, Sum


@dataclass(frozen=True, eq=False)
class AttentionNumbers(ResidualComposite):
    """Spiking linear attention, vector state. decay_shift: j of c = 256 - 2**j.

    read_step: constant step of the read-out (C,), added to the denominator b where ``denominator``.
    """

    OP: ClassVar[str] = "spiking_linear_attention"
    PART: ClassVar[str] = "attention"

    input: BlockInputNumbers
    delay: Ints
    receptance: Projection
    receptance_step: Ints
    key: Projection
    key_step: Ints
    value: Projection
    value_step: Ints
    levels: int
    decay_shift: Ints
    fraction_bits: int
    denominator: bool
    read_step: Ints
    out: Projection

    def ops(self, prefix: str, source: str) -> list[Op]:
        """Operations named ``prefix + ...``; the last one is ``prefix + 'out'``, the residual update."""
        decay = (256 - (1 << self.decay_shift.astype(np.int64))).astype(np.int32)
        gates = [
            ("receptance", self.receptance, self.receptance_step, 1),
            ("key", self.key, self.key_step, 1),
            ("value", self.value, self.value_step, self.levels),
        ]
        ops = self.input.ops(prefix + "input.", source)
        ops.append(Delay(prefix + "shift", prefix + "input.spikes", self.delay))
        ops += [layer.op(prefix + name, prefix + "shift") for name, layer, _, _ in gates]
        ops += [Count(f"{prefix}{name}_spikes", prefix + name, step, levels) for name, _, step, levels in gates]
        ops += [
            Gate(prefix + "key_value", prefix + "key_spikes", prefix + "value_spikes"),
            Integrate(prefix + "numerator", prefix + "key_value", decay, self.fraction_bits),
        ]
        step: Ints | str = self.read_step
        if self.denominator:
            step = prefix + "read_step"
            ops += [
                Integrate(prefix + "denominator", prefix + "key_spikes", decay, self.fraction_bits),
                Sum(step, (prefix + "denominator",), self.read_step),
            ]
        return [
            *ops,
            Count(prefix + "read_spikes", prefix + "numerator", step, self.levels),
            Gate(prefix + "read_gate", prefix + "receptance_spikes", prefix + "read_spikes"),
            self.out.op(prefix + "out", prefix + "read_gate"),
        ]

    def primitives(self) -> tuple[Nodes, Edges]:
        c = self.delay.size
        nodes: Nodes = {"input": port("Input", c)}
        edges: Edges = []
        add_block_input(nodes, edges, "input.", "input", self.input)
        add_shift(nodes, edges, self.delay)
        for name, layer, step, levels in (
            ("receptance", self.receptance, self.receptance_step, 1),
            ("key", self.key, self.key_step, 1),
            ("value", self.value, self.value_step, self.levels),
        ):
            nodes[name] = linear(layer, True)
            edges += chain("shift", name)
            # The value is read line by line; a sum without a reader would become a second output of the graph.
            (add_lines if name == "value" else add_count)(nodes, edges, name + "_spikes", name, step, levels)
        add_gate(nodes, edges, "key_value", "key_spikes", "value_spikes", c, self.levels)
        add_integrate(nodes, edges, "numerator", "key_value", self.decay_shift, self.fraction_bits)
        if self.denominator:
            add_integrate(nodes, edges, "denominator", "key_spikes", self.decay_shift, self.fraction_bits)
        add_lines(
            nodes,
            edges,
            "read_spikes",
            "numerator",
            self.read_step,
            self.levels,
            step_signal="denominator" if self.denominator else "",
        )
        add_gate(nodes, edges, "read_gate", "receptance_spikes", "read_spikes", c, self.levels)
        add_write(nodes, edges, "out", "read_gate", self.out)
        return nodes, edges

    @classmethod
    def read(cls, graph: Graph) -> Self:
        value_step, levels, _ = read_step(graph, "value_spikes")
        return cls(
            input=read_block_input(graph, "input."),
            delay=read_delay(graph),
            receptance=projection(graph, "receptance"),
            receptance_step=read_step(graph, "receptance_spikes")[0],
            key=projection(graph, "key"),
            key_step=read_step(graph, "key_spikes")[0],
            value=projection(graph, "value"),
            value_step=value_step,
            levels=levels,
            decay_shift=(8 - np.rint(np.log2(read_array(graph, "numerator", "r")[0]))).astype(np.int32),
            fraction_bits=int(np.log2(read_array(graph, "numerator.in", "scale").flat[0])),
            denominator="denominator" in graph.nodes,
            read_step=read_step(graph, "read_spikes")[0],
            out=projection(graph, "out", "out.scale"),
        )

    def settings(self) -> Settings:
        return [
            *self.input.settings(),
            ("levels", self.levels),
            ("denominator", self.denominator),
            ("state_fraction_bits", self.fraction_bits),
        ]
