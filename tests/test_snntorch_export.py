"""`to_nir` of snnTorch networks: every neuron and every form of forward gives the spikes of the module itself, or is
refused by name.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import snntorch as snn
import torch
from snntorch import utils
from torch import nn
from torch.nn import functional

from nsllm_nir import compare_quantization, graph, quantize, to_nir, verify
from nsllm_nir.errors import InputError, LossyConversionError
from nsllm_nir.graph import Graph, Node
from nsllm_nir.quantization import float_reference
from nsllm_nir.snntorch_network import export as snntorch_export

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature"),
]
STEPS, INPUTS, SIZE = 60, 10, 16
HIDDEN = {"init_hidden": True}
ALL_TO_ALL = {"beta": 0.9, "linear_features": SIZE}
ONE_TO_ONE = {"beta": 0.9, "all_to_all": False, "V": torch.linspace(-0.4, 0.4, SIZE)}
NEURONS: dict[str, Callable[..., nn.Module]] = {
    "leaky": lambda **k: snn.Leaky(beta=0.9, **k),
    "leaky-vectors": lambda **k: snn.Leaky(
        beta=torch.linspace(0.3, 0.99, SIZE), **{**k, "threshold": torch.linspace(0.1, 1.4, SIZE)}
    ),
    "leaky-learned": lambda **k: snn.Leaky(beta=torch.tensor(0.7), learn_beta=True, learn_threshold=True, **k),
    "never-leaks": lambda **k: snn.Leaky(beta=1.0, **k),
    "no-memory": lambda **k: snn.Leaky(beta=0.0, **k),
    "beta-beyond-1": lambda **k: snn.Leaky(beta=1.5, **k),
    "synaptic": lambda **k: snn.Synaptic(alpha=0.8, beta=0.9, **k),
    "synaptic-vectors": lambda **k: snn.Synaptic(
        alpha=torch.linspace(0.1, 0.9, SIZE), beta=torch.linspace(0.9, 0.2, SIZE), **k
    ),
    "synaptic-alpha-1": lambda **k: snn.Synaptic(alpha=1.0, beta=0.6, **k),
    "synaptic-beta-1": lambda **k: snn.Synaptic(alpha=0.6, beta=1.0, **k),
    "rleaky": lambda **k: snn.RLeaky(**ALL_TO_ALL, **k),
    "rleaky-one-to-one": lambda **k: snn.RLeaky(**ONE_TO_ONE, **k),
    "rleaky-fixed": lambda **k: snn.RLeaky(beta=0.9, all_to_all=False, V=0.3, learn_recurrent=False, **k),
    "rsynaptic": lambda **k: snn.RSynaptic(alpha=0.7, **ALL_TO_ALL, **k),
    "rsynaptic-one-to-one": lambda **k: snn.RSynaptic(alpha=0.7, **ONE_TO_ONE, **k),
    "lapicque": lambda **k: snn.Lapicque(beta=0.8, **k),
    "lapicque-rc": lambda **k: snn.Lapicque(R=5.1, C=2.0, time_step=1, **k),
    "lapicque-beta-c": lambda **k: snn.Lapicque(beta=0.7, C=0.5, **k),
}
DELAYS = [("subtract", True), ("subtract", False), ("zero", True), ("zero", False), ("none", True), ("none", False)]


def delay_of(name: str, delay: bool) -> dict[str, Any]:
    return {} if name.startswith("lapicque") else {"reset_delay": delay}


def refused(name: str, reset: str, delay: bool) -> bool:
    """The combinations that have no exact form."""
    dropped = reset == "zero" and delay and name.startswith(("synaptic", "rleaky", "lapicque", "rsynaptic"))
    return dropped or (name.startswith("rsynaptic") and not delay)


def spikes(steps: int = STEPS, size: int = INPUTS, seed: int = 3) -> np.ndarray:
    return (np.random.default_rng(seed).random((steps, size)) < np.linspace(0.1, 0.9, steps)[:, None]).astype(np.int64)


def weighted(*layers: nn.Module, seed: int = 0, inputs: int = INPUTS, gain: float = 3.0) -> nn.Sequential:
    torch.manual_seed(seed)
    first = nn.Linear(inputs, SIZE)
    with torch.no_grad():
        first.weight.mul_(gain)
    return nn.Sequential(first, *layers)


def doubled(model: nn.Module) -> nn.Module:
    """The module in float64, from a silent start; snnTorch's surrogates would give float32 spikes."""
    for module in model.double().eval().modules():
        if isinstance(module, snn.SpikingNeuron | snn.LeakyParallel):
            module.spike_grad = lambda u: (u > 0).to(u.dtype)
        if isinstance(module, snn.SpikingNeuron):
            module.reset_mem()
    return model


def outputs(model: nn.Module, x: np.ndarray, shape: tuple[int, ...] = (INPUTS,)) -> np.ndarray:
    """Spikes (steps, neurons) of a one-step module that keeps its states."""
    rows = torch.from_numpy(x.astype(np.float64)).reshape(-1, 1, *shape)
    with torch.no_grad():
        found = [doubled(model)(row) if i == 0 else model(row) for i, row in enumerate(rows)]
    return np.array([(y[0] if isinstance(y, tuple) else y).flatten().numpy() for y in found])


def exported(model: nn.Module, folder: Path, **options: Any) -> Graph:
    """The graph of the file, after nir itself has read it."""
    path = to_nir(model, folder / "network.nir", **options)
    nir.read(path)
    return graph.read(path)


def of(net: Graph, x: np.ndarray, node: str = "1") -> np.ndarray:
    return float_reference.run(net, x).values[node]


@pytest.mark.parametrize(
    ("name", "reset", "delay"), [(n, r, d) for n in NEURONS for r, d in DELAYS if d or not n.startswith("lapicque")]
)
def test_neurons(name: str, reset: str, delay: bool, tmp_path: Path) -> None:
    """Each neuron, reset and delay: the module's own spikes, or a refusal."""
    model = weighted(NEURONS[name](threshold=0.4, reset_mechanism=reset, **delay_of(name, delay), **HIDDEN))
    if refused(name, reset, delay):
        with pytest.raises(LossyConversionError, match=r"1: .*reset.*; use "):
            to_nir(model, tmp_path / "network.nir")
        assert not list(tmp_path.iterdir())
        return
    x = spikes()
    got, expected = of(exported(model, tmp_path), x), outputs(model, x)
    assert np.array_equal(got, expected)
    assert 20 < expected.sum() < expected.size - 20


def test_excess_decides(tmp_path: Path) -> None:
    """Without delay, snnTorch asks a potential that exceeds the threshold even after its reset for two thresholds."""
    model = weighted(snn.Leaky(beta=0.9, threshold=0.3, reset_delay=False, **HIDDEN))
    net, x = exported(model, tmp_path), spikes()
    plain = Graph(
        {n: node for n, node in net.nodes.items() if "excess" not in n},
        tuple(e for e in net.edges if "excess" not in e[0] + e[1]),
    )
    expected = outputs(model, x)
    assert np.array_equal(of(net, x), expected)
    assert not np.array_equal(of(plain, x), expected)


def test_recurrent_convolution(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), snn.RLeaky(beta=0.8, threshold=0.3, conv2d_channels=3, kernel_size=3, **HIDDEN)
    )
    x = spikes(size=2 * 5 * 5)
    assert np.array_equal(of(exported(model, tmp_path, input_shape=(2, 5, 5)), x), outputs(model, x, (2, 5, 5)))


@pytest.mark.parametrize("beta", [0.5, torch.tensor([0.9])])
def test_leaky_parallel(beta: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        snn.LeakyParallel(INPUTS, SIZE, beta=beta, threshold=1.5), snn.LeakyParallel(SIZE, 6, beta=0.9, threshold=8.0)
    )
    with torch.no_grad():
        for layer in model:
            for p in layer.rnn.parameters():
                p.abs_()
    x = spikes()
    got = of(exported(model, tmp_path), x)
    with torch.no_grad():
        expected = doubled(model)(torch.from_numpy(x.astype(np.float64))[:, None])[:, 0]
    assert np.array_equal(got, expected.numpy()) and 20 < got.sum() < got.size - 20


class Tutorial(nn.Module):
    """The network of snnTorch's tutorials: states made inside, a loop over a constant number of steps."""

    def __init__(self, steps: int = 25) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.num_steps = steps
        self.fc1 = nn.Linear(INPUTS, 20)
        self.lif1 = snn.Leaky(beta=0.9, threshold=0.3)
        self.fc2 = nn.Linear(20, 5)
        self.lif2 = snn.Leaky(beta=0.8, threshold=0.2)

    def forward(self, x: Any) -> Any:
        # Initialize hidden states at t=0
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.init_leaky()

        # Record the final layer
        spk2_rec = []
        mem2_rec = []

        for _ in range(self.num_steps):
            cur1 = self.fc1(x)
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = self.fc2(spk1)
            spk2, mem2 = self.lif2(cur2, mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)

        return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)


class OverInput(Tutorial):
    """A loop over the steps of the input."""

    def forward(self, x: Any) -> Any:
        mem1, mem2, rec = self.lif1.reset_mem(), torch.zeros(x.size(1), 5), []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            rec.append(spk2)
        return torch.stack(rec)


class BatchFirst(Tutorial):
    """The time axis behind the batch; neurons keep their states."""

    def forward(self, x: Any) -> Any:
        self.lif1.reset_mem()
        self.lif2.reset_mem()
        rec = []
        for step in range(x.shape[1]):
            spk1, _ = self.lif1(self.fc1(x[:, step]))
            rec.append(self.lif2(self.fc2(spk1))[0])
        return {"spikes": rec}


class OverItems(Tutorial):
    def forward(self, x: Any) -> Any:
        utils.reset(self)
        rec = []
        for item in x:
            spk1, _ = self.lif1(self.fc1(item))
            spk2, _ = self.lif2(self.fc2(spk1))
            rec += [spk2]
        return rec


class Explicit(Tutorial):
    def forward(self, x: Any, mem1: Any, mem2: Any) -> Any:  # type: ignore[override]  # of one step, with its states
        spk1, mem1 = self.lif1(self.fc1(x), mem1)
        spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
        return mem1.detach(), spk1, mem2, spk2


class Hidden(Tutorial):
    """`init_hidden`, as in the tutorials that use `nn.Sequential`."""

    def __init__(self) -> None:
        super().__init__()
        self.lif1.init_hidden = self.lif2.init_hidden = self.lif2.output = True

    def forward(self, x: Any) -> Any:
        return self.lif2(self.fc2(self.lif1(self.fc1(x))))


class KeptStates(Tutorial):
    def forward(self, x: Any, scale: float = 1.0) -> Any:
        spk1, _ = self.lif1(self.fc1(x))
        spk2, mem2 = self.lif2(self.fc2(spk1))
        return spk2, mem2


FORMS: dict[type[nn.Module], Callable[[nn.Module, torch.Tensor], torch.Tensor]] = {
    OverInput: lambda m, x: m(x),
    BatchFirst: lambda m, x: torch.stack(m(x.transpose(0, 1))["spikes"]),
    OverItems: lambda m, x: torch.stack(m(x)),
    Hidden: lambda m, x: torch.stack([m(row)[0] for row in x]),
    KeptStates: lambda m, x: torch.stack([m(row)[0] for row in x]),
}


def test_tutorial(tmp_path: Path) -> None:
    """One input for all steps, as in the tutorials."""
    model = Tutorial()
    net = exported(model, tmp_path)
    assert set(net.nodes) == {
        "input",
        "output",
        "fc1",
        "fc2",
        *(f"lif{i}{part}" for i in (1, 2) for part in ("", ".membrane", ".reset")),
    }
    doubled(model)
    for row in np.random.default_rng(0).random((5, INPUTS)):
        with torch.no_grad():
            expected = model(torch.from_numpy(row)[None])[0][:, 0].numpy()
        assert np.array_equal(of(net, np.repeat(row[None], 25, axis=0), "lif2"), expected) and expected.any()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_forms_of_forward(form: type[nn.Module], tmp_path: Path) -> None:
    """All forms of the network give the file of the tutorial, and the module's spikes."""
    model, x = form(), spikes()
    net = exported(model, tmp_path)
    assert (tmp_path / "network.nir").read_bytes() == to_nir(Tutorial(), tmp_path / "tutorial.nir").read_bytes()
    with torch.no_grad():
        expected = FORMS[form](doubled(model), torch.from_numpy(x.astype(np.float64))[:, None])
    assert np.array_equal(of(net, x, "lif2"), expected[:, 0].numpy()) and expected.any()


def test_explicit_states(tmp_path: Path) -> None:
    model, x = Explicit(), spikes()
    net = exported(model, tmp_path)
    assert (tmp_path / "network.nir").read_bytes() == to_nir(Tutorial(), tmp_path / "tutorial.nir").read_bytes()
    doubled(model)
    mem1, mem2, expected = torch.zeros(1, 20), torch.zeros(1, 5), []
    for row in torch.from_numpy(x.astype(np.float64)):
        with torch.no_grad():
            mem1, _, mem2, spk2 = model(row[None], mem1, mem2)
        expected.append(spk2[0].numpy())
    assert np.array_equal(of(net, x, "lif2"), np.array(expected))


class RecurrentStep(nn.Module):
    """Explicit states of recurrent neurons, one step; one state by keyword, the spikes are a state as well."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.fc1 = nn.Linear(INPUTS, SIZE)
        self.lif1 = snn.RLeaky(beta=0.9, threshold=0.3, linear_features=SIZE)

    def forward(self, x: Any, potential: Any, spk: Any = None) -> Any:
        spk, potential = self.lif1(self.fc1(x), spk, mem=potential)
        return [potential, {"spikes": spk}]


def test_recurrent_step(tmp_path: Path) -> None:
    model, x = RecurrentStep(), spikes()
    net = exported(model, tmp_path)
    doubled(model)
    mem, spk, expected = torch.zeros(1, SIZE).double(), torch.zeros(1, SIZE).double(), []
    for row in torch.from_numpy(x.astype(np.float64)):
        with torch.no_grad():
            mem, found = model(row[None], mem, spk)
        spk = found["spikes"]
        expected.append(spk[0].numpy())
    assert np.array_equal(of(net, x, "lif1"), np.array(expected)) and 20 < np.sum(expected) < np.size(expected) - 20


class Recurrent(nn.Module):
    """Explicit states of recurrent neurons, looped."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.fc1 = nn.Linear(INPUTS, SIZE)
        self.lif1 = snn.RLeaky(beta=0.9, threshold=0.3, linear_features=SIZE)
        self.lif2 = snn.RSynaptic(alpha=0.5, beta=0.8, threshold=0.5, all_to_all=False, V=0.2)

    def forward(self, x: Any) -> Any:
        spk1, mem1 = self.lif1.init_rleaky()
        spk2, syn2, mem2 = self.lif2.init_rsynaptic()
        rec = []
        for step in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[step]), spk1, mem=mem1)
            spk2, syn2, mem2 = self.lif2(spk1, spk2, syn2, mem2)
            rec.append(spk2)
        return torch.stack(rec), mem2


class Convolutions(nn.Module):
    """Batch normalisation, all poolings, functional forms, a residual and two branches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.lif1 = snn.Leaky(
            beta=torch.linspace(0.5, 0.9, 4)[:, None, None], threshold=0.5, reset_mechanism="zero", **HIDDEN
        )
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.lif2 = snn.Leaky(beta=0.8, threshold=0.3, **HIDDEN)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(16, 6)
        self.bn = nn.BatchNorm1d(6, affine=False)
        self.lif3 = snn.Synaptic(alpha=0.5, beta=0.8, threshold=0.2, **HIDDEN)
        norms: tuple[Any, ...] = (self.bn1, self.bn)
        for norm in norms:
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.2, 0.5)

    def forward(self, x: Any) -> Any:
        spk1 = self.pool(self.lif1(self.bn1(self.conv1(x))))
        spk2 = self.lif2(self.conv2(functional.dropout(spk1, 0.5, self.training)) + spk1)
        both = torch.add(functional.avg_pool2d(spk2, 2), functional.max_pool2d(spk2, 2))
        return self.lif3(self.bn(self.fc(self.drop(both.view(both.size(0), -1)))))


def test_recurrent_loop(tmp_path: Path) -> None:
    model, x = Recurrent(), spikes()
    net = exported(model, tmp_path)
    with torch.no_grad():
        expected = doubled(model)(torch.from_numpy(x.astype(np.float64))[:, None])[0][:, 0].numpy()
    assert np.array_equal(of(net, x, "lif2"), expected) and 20 < expected.sum() < expected.size - 20


def test_convolutions(tmp_path: Path) -> None:
    model, x = Convolutions(), spikes(size=2 * 8 * 8)
    with pytest.raises(LossyConversionError, match=r"bn1: BatchNorm2d in training mode .* call model.eval"):
        to_nir(model, tmp_path / "network.nir", input_shape=(2, 8, 8))
    net = exported(model.eval(), tmp_path, input_shape=(2, 8, 8))
    assert {"pool", "pool.sum", "avg_pool2d", "max_pool2d", "view", "fc", "lif3"} <= set(
        net.nodes
    ) and "bn1" not in net.nodes
    expected = outputs(model, x, (2, 8, 8))
    assert np.array_equal(of(net, x, "lif3"), expected) and 10 < expected.sum() < expected.size - 10


def test_branches_and_outputs(tmp_path: Path) -> None:
    """Two heads give two outputs; a returned hidden layer that a head reads gives none."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = weighted(snn.Leaky(beta=0.9, threshold=0.4, **HIDDEN))
            self.input = nn.Linear(SIZE, 3)
            self.left = snn.Leaky(beta=0.5, threshold=0.1, graded_spikes_factor=1.0, **HIDDEN)
            self.right = snn.Leaky(beta=0.8, threshold=0.4, reset_mechanism="zero", **HIDDEN)

        def forward(self, x: Any) -> Any:
            h = self.body(x)
            return h, [self.left(self.input(h)), self.right(h)]

    model, x = Heads(), spikes()
    net = exported(model, tmp_path)
    assert {"input.port", "output_0", "output_1", "body.0", "body.1", "input", "left", "right"} <= set(net.nodes)
    doubled(model)
    with torch.no_grad():
        found = [model(torch.from_numpy(row.astype(np.float64))[None])[1] for row in x]
    for name, expected in zip(("left", "right"), zip(*found, strict=True), strict=True):
        assert np.array_equal(of(net, x, name), torch.cat(expected).numpy())
    assert [b for a, b in net.edges if b.startswith("output")] == ["output_0", "output_1"]


def test_graded_spikes(tmp_path: Path) -> None:
    model = weighted(
        snn.Leaky(beta=0.9, threshold=0.4, graded_spikes_factor=0.7, **HIDDEN),
        nn.Linear(SIZE, 4),
        snn.Leaky(beta=0.9, threshold=0.2, **HIDDEN),
    )
    net, x = exported(model, tmp_path), spikes()
    assert np.array_equal(of(net, x, "3"), outputs(model, x))
    with pytest.raises(LossyConversionError, match="forward returns 1, which is no train of spikes"):
        to_nir(model[:2], tmp_path / "graded.nir")


def test_one_neuron_and_input_shape(tmp_path: Path) -> None:
    """A bare neuron; the shape is asked for where no Linear says it."""
    with pytest.raises(InputError, match=r"give input_shape=\(...\)"):
        to_nir(snn.Leaky(beta=0.5), tmp_path / "n.nir")
    net = exported(snn.Leaky(beta=0.5, **HIDDEN), tmp_path, input_shape=(2, 3))
    neuron = net.nodes["0"]
    assert isinstance(neuron, Node) and neuron.array("threshold").shape == (2, 3)
    with pytest.raises(InputError, match=r"0: Linear cannot take an input of shape \(3,\)"):
        to_nir(weighted(snn.Leaky(beta=0.5, **HIDDEN)), tmp_path / "n.nir", input_shape=(3,))
    with pytest.raises(InputError, match="positive integers"):
        to_nir(weighted(snn.Leaky(beta=0.5, **HIDDEN)), tmp_path / "n.nir", input_shape=())
    with pytest.raises(InputError, match=r"to_nir takes a torch.nn.Module, got int"):
        to_nir(3, tmp_path / "n.nir")  # type: ignore[arg-type]


def test_the_model_stays_as_it_is_and_bytes_are_equal(tmp_path: Path) -> None:
    """A trained module with states and gradients: nothing of it changes, equal modules give equal files."""
    model = weighted(
        snn.Leaky(beta=0.9, learn_beta=True, **HIDDEN),
        nn.Dropout(0.2),
        nn.Linear(SIZE, 4),
        snn.Synaptic(alpha=0.5, beta=0.9, **HIDDEN),
    ).eval()
    bystander = snn.Leaky(beta=0.5, **HIDDEN)
    bystander(torch.ones(1, 3))
    before = [(name, t.clone()) for name, t in [*model.named_parameters(), *model.named_buffers()]]
    empty = to_nir(model, tmp_path / "empty.nir").read_bytes()
    model(torch.ones(7, INPUTS)).sum().backward()
    states, instances = model[1].mem, snn.SpikingNeuron.instances
    assert to_nir(model, tmp_path / "run.nir").read_bytes() == empty
    assert (
        model[1].mem is states
        and snn.SpikingNeuron.instances is instances
        and bystander.mem.any()
        and not model.training
    )
    assert all(
        torch.equal(value, dict(model.named_parameters())[name])
        for name, value in before
        if name in dict(model.named_parameters())
    )
    with torch.no_grad():
        first: Any = model[0]
        first.weight[0, 0] += 0.5
    assert to_nir(model, tmp_path / "other.nir").read_bytes() != empty


def test_the_check_catches_a_wrong_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: one beta of the graph is off by 5 %. Nothing is written."""
    right = snntorch_export.neuron

    def wrong(module: Any, name: str, shape: Any) -> Any:
        part = right(module, name, shape)
        node = part.nodes["1.membrane"]
        part.nodes["1.membrane"] = Node(
            node.type, {**node.parameters, "tau": node.array("tau") * np.where(np.arange(SIZE) == 5, 1.05, 1.0)}
        )
        return part

    monkeypatch.setattr(snntorch_export, "neuron", wrong)
    with pytest.raises(
        LossyConversionError,
        match=r"the graph and the network differ \(node '1', step \d+, neuron 5: expected [01], got [01]\)",
    ):
        to_nir(weighted(snn.Leaky(beta=0.9, threshold=0.2, **HIDDEN)), tmp_path / "n.nir")
    assert not list(tmp_path.iterdir())


def test_a_layer_used_twice_is_two_nodes(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.again, self.lif = (
                nn.Linear(INPUTS, INPUTS),
                nn.Linear(INPUTS, INPUTS),
                snn.Leaky(beta=0.9, threshold=0.3, **HIDDEN),
            )

        def forward(self, x: Any) -> Any:
            return self.lif(self.fc(self.fc(x)) + self.again(x))

    model, x = Twice(), spikes()
    net = exported(model, tmp_path)
    assert {"fc", "fc.2", "again"} <= set(net.nodes)
    assert np.array_equal(of(net, x, "lif"), outputs(model, x))


def test_a_module_with_the_name_of_a_function(tmp_path: Path) -> None:
    """A neuron keeps its name; what would collide with it gets another."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flatten = snn.Leaky(beta=0.9, threshold=0.2, **HIDDEN)
            self.flatten.add_module("2", nn.Identity())
            self.fc = nn.Linear(6, 3)
            self.lif = snn.Leaky(beta=0.9, threshold=0.1, **HIDDEN)

        def forward(self, x: Any) -> Any:
            return self.lif(self.fc(self.flatten(torch.flatten(x, 1))))

    model, x = Named(), spikes(size=6)
    net = exported(model, tmp_path, input_shape=(2, 3))
    assert {"flatten", "flatten.3", "flatten.membrane"} <= set(net.nodes)
    assert np.array_equal(of(net, x, "lif"), outputs(model, x, (2, 3)))


@pytest.mark.parametrize(
    "reset", [("zero", False), ("subtract", True), ("subtract", False)], ids=lambda reset: f"{reset[0]}-{reset[1]}"
)
@pytest.mark.parametrize("neuron", ["leaky", "synaptic", "rleaky"])
def test_quantized_and_verified(neuron: str, reset: tuple[str, bool], tmp_path: Path) -> None:
    """From the module to the engine: quantized, lowered, spike for spike; what rounding costs stays small."""
    layer = NEURONS[neuron](threshold=0.4, reset_mechanism=reset[0], reset_delay=reset[1], **HIDDEN)
    path, x = to_nir(weighted(layer), tmp_path / "network.nir"), spikes(40)
    integer, _ = quantize(path)
    report = verify(integer, x, ["hls"])
    assert report.exact, report
    cost = compare_quantization(path, integer, x)
    assert cost.differences < 0.05 * sum(node.cells for node in cost.nodes) and any(
        node.integer_spikes for node in cost.nodes
    )


def test_convolutions_quantized_and_verified(tmp_path: Path) -> None:
    """Batch normalisation, both poolings and three resets through to the engine."""
    torch.manual_seed(3)
    model = nn.Sequential(
        *(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            snn.Leaky(beta=0.9, threshold=0.3, **HIDDEN),
            nn.MaxPool2d(2),
        ),
        *(
            nn.Conv2d(4, 4, 3),
            snn.Leaky(beta=0.5, threshold=0.2, reset_mechanism="zero", **HIDDEN),
            nn.AvgPool2d(2),
            nn.Flatten(),
        ),
        *(nn.Linear(4, 6), snn.Synaptic(alpha=0.5, beta=0.8, threshold=0.1, **HIDDEN)),
    ).eval()
    integer, _ = quantize(to_nir(model, tmp_path / "network.nir", input_shape=(2, 8, 8)))
    report = verify(integer, spikes(20, size=2 * 8 * 8), ["hls"])
    assert report.exact, report


def test_example_of_the_documentation_runs(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "snntorch_networks.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("exact\n")
