"""Shared programs and random inputs; every random choice is seeded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import nir
import numpy as np
import pytest

from nsllm_nir import exporters
from nsllm_nir.exporters import Executable
from nsllm_nir.graph import DT
from nsllm_nir.program import Count, Delay, Gate, Input, Integrate, Linear, Op, Program, Sum, reference
from nsllm_nir.program.trace import Trace, compare, first_difference

hypothesis.settings.register_profile("seeded", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("seeded")
GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the files of tests/golden instead of comparing with them"
    )
    parser.addoption(
        "--graph-seeds",
        type=int,
        default=20,
        help="random graphs that run on every backend; ten times as many run on the engine",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The seeds of random graphs, which stand in the names of their tests: `graph_seed` of few, `many_graph_seeds` of
    ten times as many.
    """
    count = metafunc.config.getoption("--graph-seeds")
    if "graph_seed" in metafunc.fixturenames:
        metafunc.parametrize("graph_seed", range(count))
    if "many_graph_seeds" in metafunc.fixturenames:
        metafunc.parametrize(
            "many_graph_seeds", [range(first, first + 10) for first in range(count, 11 * count, 10)], ids=str
        )


def build_program(seed: int, *, width: int = 8, vocabulary: int = 16, layers: int = 1, levels: int = 4) -> Program:
    """A random NSLLM-shaped program: every op, every shape of step, signed and unsigned counts."""
    rng = np.random.default_rng(seed)
    zeros = np.zeros(width, np.int32)

    def linear(name: str, source: str, outputs: int, inputs: int, shift: int = 0) -> Linear:
        weight = rng.integers(-7, 8, (outputs, inputs)).astype(np.int8)
        return Linear(
            name, source, weight, rng.integers(-3, 4, outputs).astype(np.int32), np.full(outputs, shift, np.uint8)
        )

    def step(size: int, low: int, high: int) -> np.ndarray:
        return rng.integers(low, high, size).astype(np.int32)

    decay = (256 - 2 ** (np.arange(width) % 6 + 2)).astype(np.int32)
    ops: list[Op] = [Input("input", vocabulary), linear("embedding", "input", width, vocabulary)]
    h = "embedding"
    for i in range(layers):
        p = f"layer_{i:02d}."
        pooled: list[Op] = [
            Count(p + "pool_spikes", h, step(width, 3, 6), levels),
            Linear(
                p + "pool",
                p + "pool_spikes",
                np.ones((1, width), np.int8),
                np.zeros(1, np.int32),
                np.zeros(1, np.uint8),
            ),
            Linear(
                p + "in_step", p + "pool", np.ones((width, 1), np.int8), step(width, 2, 6), np.zeros(width, np.uint8)
            ),
            Count(p + "in_spikes", h, p + "in_step", levels),
        ]
        plain: list[Op] = [Count(p + "in_spikes", h, step(width, 2, 6), levels, signed=True)]
        ops += pooled if i % 2 else plain
        ops += [
            Delay(
                p + "shift",
                p + "in_spikes",
                (np.arange(width) < width // 2).astype(np.int32) * (1 + np.arange(width) % 2),
            ),
            *(linear(p + n, p + "shift", width, width) for n in ("receptance", "key", "value")),
            Count(p + "receptance_spikes", p + "receptance", step(width, 5, 12), 1),
            Count(p + "key_spikes", p + "key", step(width, 5, 12), 1),
            Count(p + "value_spikes", p + "value", step(width, 5, 12), levels),
            Gate(p + "key_value", p + "key_spikes", p + "value_spikes"),
            Integrate(p + "numerator", p + "key_value", decay, 5),
            Integrate(p + "denominator", p + "key_spikes", decay, 5),
            Sum(p + "read_step", (p + "denominator",), np.full(width, 8, np.int32)),
            Count(p + "read_spikes", p + "numerator", p + "read_step", levels),
            Gate(p + "out_spikes", p + "receptance_spikes", p + "read_spikes"),
            linear(p + "out", p + "out_spikes", width, width, 1),
            Sum(p + "residual", (h, p + "out"), zeros),
        ]
        h = p + "residual"
    ops += [
        Count("final_spikes", h, step(width, 3, 8), 2 * levels),
        linear("logits", "final_spikes", vocabulary, width),
    ]
    return Program(tuple(ops), ("logits",))


@pytest.fixture(scope="session")
def random_program() -> Callable[..., Program]:
    """`build_program(seed, ...)`."""
    return build_program


Shape = tuple[int, ...]


class GraphMaker:
    """One level of a random graph: its nodes and edges so far, and the spike signals (name, shape) that later nodes may
    read.

    exact: integers in Loihi's formats, which `lower` accepts; else floats that have to be quantized.
    """

    def __init__(self, rng: np.random.Generator, exact: bool, prefix: str = "") -> None:
        self.rng, self.exact, self.prefix = rng, exact, prefix
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.spikes: list[tuple[str, Shape]] = []

    def graph(self, shape: Shape, populations: int) -> nir.NIRGraph:
        """The output is that of the last population, or of an integrator that reads it."""
        self.spikes.append((self.add("input", nir.Input(np.array(shape))), shape))
        for _ in range(populations):
            self.population()
        name, shape = self.spikes[-1]
        if not self.prefix and self.chance(0.4):
            name, shape = self.synapses(name, shape)
            name = self.add("integrator", self.integrator(shape), name)
        self.add("output", nir.Output(np.array(shape)), name)
        return nir.NIRGraph(self.nodes, self.edges, type_check=False)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def add(self, kind: str, node: nir.NIRNode, *sources: str) -> str:
        """Names are unique in the whole graph; their alphabetical order is random."""
        name = f"{self.rng.choice(list('abcdefgh'))}{self.prefix}{len(self.nodes)}_{kind}"
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def population(self) -> None:
        """One to three synapse nodes, the neurons they reach, perhaps a subgraph behind those, perhaps a loop to these
        or earlier neurons.
        """
        first, shape = self.synapses(*(self.spikes[-1] if self.chance(0.6) else self.pick()))
        entries = [first]
        while self.chance(0.4) and len(entries) < 3:
            entries += self.synapses_to(*self.pick(), shape)
        self.spikes.append((self.add("neuron", self.neuron(shape), *entries), shape))
        if self.chance(0.4):
            target, shape = self.pick("_neuron")
            self.edges += [(back, target) for back in self.synapses_to(*self.spikes[-1], shape)]
        if len(self.prefix) < 4 and self.chance(0.25):
            name, shape = self.spikes[-1]
            inner = GraphMaker(self.rng, self.exact, f"{self.prefix}s{len(self.nodes)}")
            graph = inner.graph(shape, int(self.rng.integers(1, 3)))
            self.spikes.append((self.add("subgraph", graph, name), inner.spikes[-1][1]))

    def pick(self, ending: str = "") -> tuple[str, Shape]:
        found = [signal for signal in self.spikes if signal[0].endswith(ending)]
        return found[self.rng.integers(len(found))]

    def synapses(self, source: str, shape: Shape) -> tuple[str, Shape]:
        """Weights of a kind that fits ``shape``, perhaps behind a delay."""
        if self.chance(0.25):
            source = self.add("delay", nir.Delay(DT * self.rng.integers(0, 4, shape)), source)
        if len(shape) == 3 and self.chance(0.25) and shape[1] >= 4:
            pool = nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
            return self.add("pool", pool, source), (shape[0], shape[1] // 2, shape[1] // 2)
        if len(shape) > 1 and self.chance(0.7):
            outputs, kernel, stride, pad = (
                int(self.rng.integers(low, high)) for low, high in ((1, 4), (1, min(shape[1], 3) + 1), (1, 3), (0, 2))
            )
            weight = self.weights(outputs, shape[0], *[kernel] * (len(shape) - 1))
            conv: nir.NIRNode
            if len(shape) == 3:
                conv = nir.Conv2d(shape[1:], weight, stride, pad, 1, 1, self.biases(outputs))
            else:
                conv = nir.Conv1d(shape[1], weight, stride, pad, 1, 1, self.biases(outputs))
            return self.add("conv", conv, source), (outputs, *[(n + 2 * pad - kernel) // stride + 1 for n in shape[1:]])
        target = (int(self.rng.integers(2, 9)),)
        return self.synapses_to(source, shape, target)[0], target

    def synapses_to(self, source: str, shape: Shape, target: Shape) -> list[str]:
        """Weights from ``source`` to ``target``; none where no NIR node leads from the one shape to the other."""
        if shape == target and self.chance(0.5):
            gain = self.rng.integers(-40, 60, shape) * (1.0 if self.exact else 0.0173)
            return [self.add("gain", nir.Scale(gain), source)]
        if len(target) > 1:
            if shape[1:] != target[1:]:
                return []
            weight = self.weights(target[0], shape[0], *[3] * (len(shape) - 1))
            kind, size = (nir.Conv2d, shape[1:]) if len(shape) == 3 else (nir.Conv1d, shape[1])
            return [self.add("conv", kind(size, weight, 1, 1, 1, 1, self.biases(target[0])), source)]
        if len(shape) > 1:
            source = self.add("flat", nir.Flatten({"input": np.array(shape)}, 0, -1), source)
        weight = self.weights(target[0], int(np.prod(shape)))
        return [
            self.add(
                "weights", nir.Affine(weight, self.biases(*target)) if self.chance(0.5) else nir.Linear(weight), source
            )
        ]

    def weights(self, *shape: int) -> np.ndarray:
        found = self.rng.integers(-50, 100, shape) * (self.rng.random(shape) < 0.8)
        return (found if self.exact else found * 0.0173).astype(np.float32)

    def biases(self, *shape: int) -> np.ndarray:
        found = self.rng.integers(-20, 20, shape) * self.rng.integers(2)
        return np.asarray(found if self.exact else found * 0.0173, np.float32)

    def decays(self, shape: Shape) -> np.ndarray:
        """dt / tau: one of all neurons, or one of each."""
        found = np.broadcast_to(self.rng.integers(200, 4097, shape if self.chance(0.5) else 1), shape) / 4096
        return found if self.exact else found * 0.9871

    def neuron(self, shape: Shape) -> nir.NIRNode:
        zero, mem, syn = np.zeros(shape), self.decays(shape), self.decays(shape)
        threshold = self.rng.integers(10, 150, shape) * (1.0 if self.exact else 0.0173)
        leak = self.rng.integers(-300, 300, shape) * self.chance(0.2) * (1.0 if self.exact else 0.0173) / 64 / mem
        match self.rng.integers(5):
            case 0:
                return nir.Threshold(threshold - 0.5)
            case 1:
                return nir.IF(np.full(shape, 1 / DT), 2 * threshold, v_reset=zero)
            case 2:
                return nir.LIF(np.full(shape, DT), np.ones(shape), zero, threshold, zero)
            case 3:
                return nir.CubaLIF(DT / syn, DT / mem, 1 / mem, leak, threshold, zero, 1 / syn)
            case _:
                return nir.LIF(DT / mem, 1 / mem, leak, threshold, zero)

    def integrator(self, shape: Shape) -> nir.NIRNode:
        mem, syn = self.decays(shape), self.decays(shape)
        match self.rng.integers(3):
            case 0:
                tau = 2.0 ** self.rng.integers(0, 9, shape)
                return nir.LI(tau * DT, tau, np.zeros(shape))
            case 1:
                return nir.CubaLI(DT / syn, DT / mem, 1 / mem, np.zeros(shape), 1 / syn)
            case _:
                return nir.I(np.full(shape, 1 / DT))


@pytest.fixture(scope="session")
def random_graph() -> Callable[..., nir.NIRGraph]:
    """`random_graph(seed, exact=True)`: a graph of random topology; the same for the same seed."""

    def build(seed: int, exact: bool = True) -> nir.NIRGraph:
        rng = np.random.default_rng(seed)
        shapes: list[Shape] = [(6,), (9,), (2, 7), (2, 6, 6), (1, 5, 5)]
        return GraphMaker(rng, exact).graph(shapes[rng.integers(len(shapes))], int(rng.integers(1, 6)))

    return build


@pytest.fixture
def tokens() -> np.ndarray:
    """48 token ids below 16."""
    return np.random.default_rng(7).integers(0, 16, 48)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)`: ``text`` equals tests/golden/name, or replaces it under ``--update-golden``."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), (
            f"{name} differs; after checking the change run: pytest --update-golden"
        )

    return check


@pytest.fixture(scope="session")
def assert_exact() -> Callable[..., Trace]:
    """Run spikes (tokens, neurons) on the C simulation, or an executable; assert that it equals the reference
    everywhere and does not stay silent.
    """

    def check(program: Program, inputs: np.ndarray, executable: Executable | None = None) -> Trace:
        want = reference.run(program, inputs)
        got = (executable or exporters.load("hls").compile(program)).run(inputs)
        assert list(got.values) == list(program.traced)
        assert first_difference(compare(want, got)) is None
        assert sum(int(np.abs(v).sum()) for v in want.values.values()) > 0
        return got

    return check


@pytest.fixture(scope="session")
def one_thread() -> None:
    """Torch on one thread: these tensors are too small to share."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def tiny_model(one_thread: None) -> Callable[..., Any]:
    """`tiny_model(seed=0, **config)`: a model of random weights in evaluation mode, 24 tokens, 16 channels, all of
    whose neurons fire.
    """
    import torch

    from nsllm_nir import NSLLMConfig, NSLLMForCausalLM

    def build(seed: int = 0, **config: Any) -> NSLLMForCausalLM:
        sizes = {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, **config}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return NSLLMForCausalLM(NSLLMConfig(**sizes)).eval()

    return build


@pytest.fixture
def nir_file(tiny_model: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """`nir_file(seed=0, **config)`: the exported file of that `tiny_model`."""
    from nsllm_nir import to_nir

    return lambda seed=0, **config: to_nir(tiny_model(seed, **config), tmp_path / "model.nir")


@pytest.fixture(scope="session")
def edit_file() -> Callable[..., None]:
    """`edit_file(path, "node/nodes/parameter", change)`: replace one array of a NIR file by ``change(array)``, in the
    file itself.

    The data set is replaced, not overwritten: equal arrays of a file may be one data set under several names.
    """
    import h5py

    def edit(path: Path, dataset: str, change: Callable[[np.ndarray], Any]) -> None:
        with h5py.File(path, "r+") as file:
            group, name = file["node/nodes/" + dataset.rpartition("/")[0]], dataset.rpartition("/")[2]
            old = group[name][()]
            new = np.asarray(change(old.copy()), old.dtype)
            assert new.shape == old.shape and not np.array_equal(new, old, equal_nan=new.dtype.kind == "f"), (
                "the edit changes nothing"
            )
            del group[name]
            group.create_dataset(name, data=new)

    return edit
