"""Backends ``lava`` (fused: the whole program in one Lava Process) and ``lava-stock`` (stock Loihi 2 Processes only).

Both run in Lava's multi-process runtime with its fixed-point models, in a worker process of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import BackendError, InputError, LossyConversionError
from nsllm_nir.exporters import About, lava_client, lava_constraints, lava_network, lava_stock
from nsllm_nir.exporters.lava_worker import job as jobs
from nsllm_nir.program import Program
from nsllm_nir.program.reference import check_inputs
from nsllm_nir.program.trace import Trace

MESSAGE_LIMIT = 31  # bits of a signed message between two Lava processes
BLOCK_TOKENS, BLOCK_WORDS = 64, 1 << 18  # tokens of one Lava step of the fused process; words of its messages


@dataclass
class _Session:
    """A worker that keeps its state between runs of a limited number of tokens."""

    program: Program
    worker: lava_client.Worker

    def run(self, spikes: NDArray[np.integer]) -> dict[str, NDArray[np.int64]]:
        """Advance by spikes (tokens, neurons), at most as many as the session was started for: the traced signals.

        Raises:
            InputError: the spikes do not fit the program or the session.
            BackendError: the worker fails or does not answer in time.
        """
        checked = check_inputs(self.program, spikes)
        if len(checked) > len(self.worker.input):
            raise InputError(
                f"the session was started for runs of up to {len(self.worker.input)} tokens, got {len(checked)}"
            )
        self.worker.input[:] = jobs.NO_TOKEN
        self.worker.input[: len(checked)] = checked
        self.worker.step()
        return _split(self.program, self.worker.output[: len(checked)])

    def step(self, spikes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Advance one token; raises as `run`."""
        values: NDArray[np.int64] = self.run(np.asarray(spikes)[None])[self.program.outputs[0]][0]
        return values

    def reset(self) -> None:
        """A silent start again; raises BackendError as `run`."""
        self.worker.input[:] = jobs.NO_TOKEN
        self.worker.input[0] = jobs.RESET
        self.worker.step()


@dataclass(frozen=True)
class _Fused:
    program: Program
    timeout_seconds: float

    def run(self, inputs: NDArray[np.integer]) -> Trace:
        spikes = check_inputs(self.program, inputs)
        if not len(spikes):
            return Trace(
                {node: np.zeros((0, self.program.signals[node].size), np.int64) for node in self.program.traced}
            )
        with self.start(len(spikes)) as session:
            return Trace(session.run(spikes))

    def open(self) -> AbstractContextManager[_Session]:
        return self.start(1)

    @contextmanager
    def start(self, tokens: int) -> Iterator[_Session]:
        """A session whose `run` takes up to ``tokens``, rounded up to whole blocks.

        A Lava step runs a block of tokens, because a message between Lava's processes costs far more than a token.

        Raises:
            BackendError: the worker does not start, or /dev/shm cannot hold its messages.
        """
        neurons, width = (
            self.program.inputs[0].size,
            sum(self.program.signals[node].size for node in self.program.traced),
        )
        block = max(1, min(tokens, BLOCK_TOKENS, BLOCK_WORDS // (neurons + width)))
        steps = -(-tokens // block)
        lava_client.check_shared_memory(block * (neurons + width) * 4 * jobs.CHANNEL_SLOTS)
        data, arrays = jobs.program_to_data(self.program)
        job = {"kind": "fused", "program": data, "steps": steps, "block": block}
        rows = np.full((steps * block, neurons), jobs.NO_TOKEN)
        with lava_client.worker(job, arrays, rows, (steps * block, width), self.timeout_seconds) as worker:
            yield _Session(self.program, worker)


def _split(program: Program, rows: NDArray[np.int32]) -> dict[str, NDArray[np.int64]]:
    """Columns of ``rows`` (tokens, all traced neurons) by node."""
    ends = np.cumsum([program.signals[node].size for node in program.traced])
    parts = np.split(np.asarray(rows, np.int64), ends[:-1], axis=1)
    return dict(zip(program.traced, parts, strict=True))


@dataclass(frozen=True)
class _FusedBackend:
    """timeout_seconds: longest wait for the start of the worker, and for one run or session step."""

    name: str = "lava"
    about = About(
        "fused: the whole program in one Lava process",
        "every program",
        "lava-nc, scipy, networkx, asteval",
        generates=True,
    )
    timeout_seconds: float = 600.0

    def version(self) -> str:
        return lava_client.version()

    def compile(self, program: Program) -> _Fused:
        lava_client.version()
        for node in program.traced:
            if program.signals[node].bits > MESSAGE_LIMIT:
                raise LossyConversionError(
                    f"node {node!r} needs {program.signals[node].bits} bits, a Lava message holds {MESSAGE_LIMIT}; "
                    "quantize further"
                )
        return _Fused(program, self.timeout_seconds)


@dataclass(frozen=True)
class _Stock:
    network: lava_network.Network
    timeout_seconds: float

    def run(self, inputs: NDArray[np.integer]) -> Trace:
        network = self.network
        spikes = check_inputs(network.program, inputs)
        tokens, steps = len(spikes), len(spikes) + network.latency
        data = np.zeros((steps, network.sizes["input"]), np.int32)
        data[:tokens, : spikes.shape[1]] = spikes
        data[:tokens, spikes.shape[1] :] = lava_stock.PAYLOADS
        job, arrays = lava_network.job(network)
        lava_client.check_shared_memory(lava_network.channel_bytes(network))
        with lava_client.worker(
            {**job, "steps": steps}, arrays, data, (steps, arrays["traced"].size), self.timeout_seconds
        ) as worker:
            worker.step()
            rows = _split(network.program, worker.output)
        return Trace({node: rows[node][lag : lag + tokens] for node, (_, lag) in network.traced.items()})

    def open(self) -> AbstractContextManager[_Session]:
        raise BackendError(
            f"lava-stock is a pipeline: a token leaves it {self.network.latency} Lava steps after it entered, when "
            "later tokens are under way, "
            "so it cannot wait for the next token; use the backend 'lava' to generate"
        )


@dataclass(frozen=True)
class _StockBackend:
    """timeout_seconds: longest wait for the start of the worker, and for one run."""

    name: str = "lava-stock"
    about = About(
        "only Lava's own Loihi 2 processes (Sparse, LIF, GradedVec, ProdNeuron, ...) in a pipeline, with a "
        "constraint report",
        "programs within Loihi 2's documented limits; loops of one step through one neuron population",
        "lava-nc, scipy, networkx, asteval",
        generates=False,
    )
    timeout_seconds: float = 600.0

    def version(self) -> str:
        return lava_client.version()

    def compile(self, program: Program) -> _Stock:
        lava_client.version()
        network = lava_stock.lower(program)
        lava_constraints.check(network)
        return _Stock(network, self.timeout_seconds)


fused = _FusedBackend()
stock = _StockBackend()
