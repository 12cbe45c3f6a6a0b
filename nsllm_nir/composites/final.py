"""The neurons that feed the output head: their integers, operations and NIR primitives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from nsllm_nir.composites.primitives import (
    BlockInputNumbers,
    Composite,
    Edges,
    Nodes,
    add_block_input,
    port,
    read_block_input,
)
from nsllm_nir.graph import Graph, chain
from nsllm_nir.program import Op


@dataclass(frozen=True, eq=False)
class FinalNumbers(Composite):
    """A block input alone."""

    OP: ClassVar[str] = "spike_count"

    input: BlockInputNumbers

    def ops(self, prefix: str, source: str) -> list[Op]:
        """The last operation is ``prefix + 'spikes'``."""
        return self.input.ops(prefix, source)

    def primitives(self) -> tuple[Nodes, Edges]:
        c = self.input.step.size
        nodes: Nodes = {"input": port("Input", c), "output": port("Output", c)}
        edges: Edges = chain("spikes", "output")
        add_block_input(nodes, edges, "", "input", self.input)
        return nodes, edges

    @classmethod
    def read(cls, graph: Graph) -> Self:
        return cls(read_block_input(graph, ""))
