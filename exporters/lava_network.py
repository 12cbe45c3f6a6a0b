"""Populations and projections of stock Lava Processes, and the worker job that runs them (no Lava import here).

Populations of one neuron model share one Lava Process, because Lava starts an operating-system
process, with about 0.7 ms of messages per step, for every Process; projections share one Sparse per
source, target, weight exponent and sign mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.exporters.lava_worker.job import CHANNEL_SLOTS
from nsllm_nir.program import Program

Indices = NDArray[np.signedinteger[Any]]
Key = tuple[str, str, str, int, str]  # source, target, port, weight exponent, sign mode
WEIGHT_BITS = 8
MESSAGE_BITS = {"input": 24, "graded": 24, "units": 1, "lif": 1, "gates": 24}
MODELS = {"input": "RingBuffer", "graded": "GradedVec", "units": "LIFReset", "lif": "LIF", "gates": "ProdNeuron"}
WEIGHT_RANGES = {"MIXED": (-256, 254), "EXCITATORY": (0, 255)}  # as stored


@dataclass(frozen=True, eq=False)
class Population:
    """``size`` neurons of one model that serve the node ``node``; low, high: worst case of their input sum.

    role: "value" (the node's result), "copy" (the same, one step later), "units" (thresholds of a
    count), "lif" (neurons of a Lif), "current" (u of a Lif without threshold), "product" (of a gate)
    or "constant". registers: of its neurons, each (size,); refused: why they cannot be held exactly, or "".
    """

    node: str
    role: str
    process: str
    start: int
    size: int
    lag: int
    low: int
    high: int
    registers: Mapping[str, Indices] = field(default_factory=dict)
    refused: str = ""

    @property
    def indices(self) -> Indices:
        """Of its neurons in the process: (size,)."""
        return np.arange(self.start, self.start + self.size)


@dataclass(frozen=True, eq=False)
class Projection:
    """Synapses into population ``target``: ``weights[k]`` from ``columns[k]`` to ``rows[k]``, indices in the processes.

    node: the operation that they carry out (not the target's where they end at the neuron that reads it).
    The postsynaptic sum is ``(sum of weight * message)`` shifted by ``weight_exp`` (right shifts floor).
    """

    target: Population
    node: str
    source: str
    port: str
    weight_exp: int
    sign_mode: str
    rows: Indices
    columns: Indices
    weights: Indices

    @property
    def process(self) -> Key:
        """Key of the Sparse process that holds it."""
        return self.source, self.target.process, self.port, self.weight_exp, self.sign_mode


@dataclass(frozen=True, eq=False)
class Network:
    """A pipeline of populations.

    sizes: neurons of each process, "input" with the constant lanes at its end; traced: {node:
    (indices within "graded" (neurons,), lag)}; delays: {node of a `Delay`: its longest delay in steps};
    inlined: {operation whose synapses end at a neuron: that neuron}; refused: {recurrent `Delay`: why it has no place
    in the pipeline}.
    """

    program: Program
    sizes: dict[str, int]
    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]
    traced: dict[str, tuple[Indices, int]]
    lags: dict[str, int]
    delays: dict[str, int]
    inlined: dict[str, str]
    refused: dict[str, str]

    @property
    def latency(self) -> int:
        """Lava steps from a token's entry to its last traced value."""
        return max(lag for _, lag in self.traced.values())


def job(network: Network) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The network as a worker job: weights as COO arrays (int32) and the registers of the LIF Processes."""
    grouped: dict[Key, list[Projection]] = {}
    for projection in network.projections:
        if projection.rows.size:
            grouped.setdefault(projection.process, []).append(projection)
    synapses: list[dict[str, Any]] = []
    arrays: dict[str, NDArray[Any]] = {}
    for (source, target, port, exponent, sign), members in grouped.items():
        all_rows, all_columns, weights = (
            np.concatenate(x) for x in zip(*((p.rows, p.columns, p.weights) for p in members), strict=True)
        )
        for rows, columns, values in _single_synapses(
            all_rows, all_columns, weights, network.sizes[source], WEIGHT_RANGES[sign]
        ):
            parts = {"rows": rows, "columns": columns, "values": values}
            arrays.update({f"{len(synapses)}.{key}": part.astype(np.int32) for key, part in parts.items()})
            synapses.append(
                {
                    "source": source,
                    "target": target,
                    "port": port,
                    "weight_exp": exponent,
                    "sign_mode": sign,
                    "message_bits": MESSAGE_BITS[source],
                }
            )
    arrays["traced"] = np.concatenate([indices for indices, _ in network.traced.values()])
    for population in network.populations:
        for name, values in population.registers.items():
            whole = arrays.setdefault(
                f"{population.process}.{name}", np.zeros(network.sizes[population.process], np.int32)
            )
            whole[population.start : population.start + population.size] = values
    sizes = {process: size for process, size in network.sizes.items() if size}
    return {"kind": "stock", "sizes": sizes, "synapses": synapses}, arrays


def _single_synapses(
    rows: Indices, columns: Indices, weights: Indices, width: int, limits: tuple[int, int]
) -> Iterator[tuple[Indices, Indices, Indices]]:
    """COO parts in which no pair of neurons appears twice: a Sparse has one weight per pair, and clips beyond 8 bits.

    Repeated pairs are summed where the sums fit, else they are spread over several parts.
    """
    pairs = rows.astype(np.int64) * width + columns
    unique, inverse, times = np.unique(pairs, return_inverse=True, return_counts=True)
    if len(unique) == len(pairs):
        yield rows, columns, weights
        return
    sums = np.zeros(len(unique), np.int64)
    np.add.at(sums, inverse, weights)
    if sums.min() >= limits[0] and sums.max() <= limits[1]:
        yield unique // width, unique % width, sums
        return
    order = np.argsort(inverse, kind="stable")
    repetition = np.empty(len(pairs), np.int64)
    repetition[order] = np.arange(len(pairs)) - np.repeat(np.cumsum(times) - times, times)
    for k in range(int(times.max())):
        part = repetition == k
        yield rows[part], columns[part], weights[part]


def channel_bytes(network: Network) -> int:
    """Shared memory of the channels between the Lava processes of a worker."""
    keys = {p.process for p in network.projections if p.rows.size}
    vectors = (
        sum(network.sizes[source] + network.sizes[target] for source, target, *_ in keys) + network.sizes["graded"]
    )
    return vectors * 4 * CHANNEL_SLOTS
