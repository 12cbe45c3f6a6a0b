"""What `to_nir` refuses of snnTorch networks: each forward, layer and option by name, with the remedy, and nothing is
written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import snntorch as snn
import torch
from snntorch import utils
from torch import nn

from nsllm_nir import to_nir
from nsllm_nir.errors import GraphError, LossyConversionError, NsllmNirError

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature"),
]
INPUTS, SIZE = 10, 16
HIDDEN = {"init_hidden": True}


def weighted(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, SIZE), *layers)


class Custom(nn.Module):
    """A layer, a neuron and a forward given as a function of this module and its arguments."""

    def __init__(self, forward: Callable[..., Any], neuron: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.again, self.narrow = nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, 1)
        self.lif = neuron or snn.Leaky(beta=0.9, threshold=0.3, **HIDDEN)
        self.other = snn.Leaky(beta=0.9, threshold=0.3)
        self.run = forward

    def forward(self, x: Any) -> Any:
        return self.run(self, x)


def looped(body: Callable[[Custom, Any, Any, int], tuple[Any, Any]], start: Any = None) -> Callable[[Custom, Any], Any]:
    def forward(m: Custom, x: Any) -> Any:
        mem, rec = m.other.reset_mem() if start is None else start, []
        for step in range(4):
            spk, mem = body(m, x, mem, step)
            rec.append(spk)
        return torch.stack(rec)

    return forward


def branch(m: Custom, x: Any) -> Any:
    return m.lif(m.fc(x) if x.sum() > 3 else x)


def own_recurrence(m: Custom, x: Any) -> list[Any]:
    rec: list[Any] = []
    for step in range(3):
        rec.append(m.other(m.fc(x[step]) + m.again(rec[-1]) if rec else m.fc(x[step]))[0])
    return rec


FORWARDS: dict[str, tuple[Callable[..., Any], str]] = {
    "data-dependent": (
        branch,
        (
            r"Custom.forward cannot be read without data \(line \d+ of .*test_snntorch_refusals.py\): .*control flow; "
            r"write a forward of one step"
        ),
    ),
    "function": (lambda m, x: m.lif(torch.relu(m.fc(x))), "uses `relu`, which has no NIR form"),
    "product": (lambda m, x: m.lif(m.fc(x) * 2), "uses `mul`"),
    "constant": (lambda m, x: m.lif(m.fc(x) + 0.5), "uses `add`"),
    "tensor": (lambda m, x: m.lif(m.fc(x) + torch.ones(INPUTS)), "uses the tensor '_tensor_constant0'"),
    "slice": (lambda m, x: m.lif(m.fc(x)[:, :5]), "takes the part"),
    "in-place": (lambda m, x: m.lif((h := m.fc(x), h.add_(x))[0]), "changes a tensor in place with `add_`"),
    "itself": (lambda m, x: m.lif(x + x), "lif: adds a signal to itself"),
    "shapes": (lambda m, x: m.lif(m.fc(x) + m.narrow(x)), r"adds shapes \(10,\) and \(1,\)"),
    "batch": (lambda m, x: m.lif(m.fc(x).flatten()), "flatten: it changes the first dimension"),
    "potential": (lambda m, x: m.other(m.fc(x))[1], "forward returns no spikes"),
    "reads-potential": (
        lambda m, x: m.lif(m.other(m.fc(x))[1]),
        "other: its mem is used as a signal; only spikes leave a neuron",
    ),
    "no-neuron": (lambda m, x: m.fc(x), "forward returns fc, which is no train of spikes"),
    "sum": (lambda m, x: m.lif(m.fc(x)) + x, r"forward returns lif \+ its input, which is no train"),
    "number": (lambda m, x: (m.lif(x), 3), "returns 3, which is neither a spike train nor a state"),
    "reset-in-step": (
        lambda m, x: m.other(m.fc(x), m.other.reset_mem())[0],
        "other: its mem starts at zero in every call",
    ),
    "hidden-reset": (lambda m, x: (utils.reset(m), m.lif(m.fc(x)))[1], "the graph and the network differ"),
    "number-as-state": (lambda m, x: m.other(m.fc(x), mem=0)[0], "other: its mem must be an argument of forward"),
    "unknown-state": (lambda m, x: m.other(m.fc(x), syn=x)[0], "other: unknown argument 'syn'"),
    "two-calls": (
        lambda m, x: (m.lif(m.fc(x)), m.other(x)[0], m.other(x)[0]),
        "lif: called 1 times, another neuron 2 times",
    ),
    "one-index": (lambda m, x: m.lif(m.fc(x[0])), "reads only one step of its input"),
    "reversed": (looped(lambda m, x, mem, t: m.other(m.fc(x[3 - t]), mem)), "reads input step 3 in step 0"),
    "differs": (
        looped(lambda m, x, mem, t: m.other(m.fc(x) if t else x, mem)),
        "step 1 of the loop differs from step 0",
    ),
    "weights-differ": (
        looped(lambda m, x, mem, t: m.other((m.fc, m.again)[t % 2](x), mem)),
        "step 1 of the loop differs from step 0",
    ),
    "reset-in-loop": (
        looped(lambda m, x, mem, t: m.other(m.fc(x), m.other.reset_mem())),
        "other: in step 1 its mem is not its own",
    ),
    "not-zero": (
        looped(lambda m, x, mem, t: m.other(m.fc(x), mem), torch.ones(1, INPUTS)),
        "other: in step 0 its mem is not its own .* or zero",
    ),
    "scaled-state": (
        looped(lambda m, x, mem, t: m.other(m.fc(x), mem * 0.5 if t else mem)),
        "other: in step 1 its mem is not its own",
    ),
    "own-recurrence": (
        lambda m, x: torch.stack(own_recurrence(m, x)),
        "other: its spikes are read in another step; use snn.RLeaky",
    ),
    "last-step": (
        lambda m, x: [m.other(m.fc(x[t]))[0] for t in range(8)][-1],
        r"not one value per step; collect every step",
    ),
    "rate": (
        lambda m, x: torch.stack([m.other(m.fc(x[t]))[0] for t in range(8)]).sum(0),
        "returns sum_1, not one value per step",
    ),
    "sequence": (
        lambda m, x: torch.stack([m.other(m.fc(x[t]) + m.again(x))[0] for t in range(3)]),
        "again: the first dimension of its input is not the batch; read single steps",
    ),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_forwards_that_are_refused(name: str, tmp_path: Path) -> None:
    forward, message = FORWARDS[name]
    with pytest.raises(NsllmNirError, match=message):
        to_nir(Custom(forward), tmp_path / "n.nir")
    assert not list(tmp_path.iterdir())


def changed_reset() -> nn.Module:
    neuron = snn.Leaky(beta=0.9, **HIDDEN)
    neuron.reset_mechanism = "zero"
    return neuron


class Derived(snn.Leaky):
    """A neuron of the user's own."""


def test_states_must_come_back(tmp_path: Path) -> None:
    class Forgets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(INPUTS, SIZE), snn.Leaky(beta=0.9)

        def forward(self, x: Any, mem1: Any) -> Any:
            return self.lif1(self.fc1(x), mem1)[0]

    with pytest.raises(GraphError, match="lif1: forward takes its mem 'mem1' but does not return the new one"):
        to_nir(Forgets(), tmp_path / "n.nir")


LAYERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "inhibition": (lambda: snn.Leaky(beta=0.9, inhibition=True, **HIDDEN), "1: inhibition .* use inhibition=False"),
    "state-quant": (
        lambda: snn.Leaky(beta=0.9, state_quant=lambda v: v, **HIDDEN),
        "1: state_quant .* use state_quant=False",
    ),
    "surrogate": (
        lambda: snn.Leaky(beta=0.9, spike_grad=torch.sigmoid, **HIDDEN),
        "1: its spike_grad gives .* not spikes",
    ),
    "negative-threshold": (lambda: snn.Leaky(beta=0.9, threshold=-0.1, **HIDDEN), "1: a negative threshold"),
    "not-a-number": (lambda: snn.Leaky(beta=float("nan"), **HIDDEN), "1: its beta holds NaN"),
    "size": (
        lambda: snn.Leaky(beta=torch.ones(3) / 2, **HIDDEN),
        r"1: its beta of shape \(3,\) does not fit neurons of shape \(16,\)",
    ),
    "mixed-leak": (
        lambda: snn.Leaky(beta=torch.linspace(0.5, 1, SIZE), **HIDDEN),
        "1: some of its neurons leak, others",
    ),
    "changed-reset": (changed_reset, "1: reset_mechanism was changed after construction"),
    "lapicque": (lambda: snn.Lapicque(R=0.5, C=0.5, time_step=1, **HIDDEN), "1: R, C and time_step give a decay of -3"),
    "alpha": (lambda: snn.Alpha(alpha=0.9, beta=0.8, **HIDDEN), "1: Alpha has no NIR form here; .*use snn.Synaptic"),
    "slstm": (lambda: snn.SLSTM(SIZE, 4, **HIDDEN), "1: SLSTM has no NIR form here; NIR has no gates"),
    "derived": (lambda: Derived(beta=0.9, **HIDDEN), "1: Derived has no NIR form here; known are Linear"),
    "layer": (nn.ReLU, "1: ReLU has no NIR form here; known are Linear"),
    "states": (
        lambda: nn.Sequential(snn.Leaky(beta=0.9), nn.Linear(SIZE, 4)),
        "1.1: its input is spikes and states; .*init_hidden=True",
    ),
    "parallel-input": (
        lambda: snn.LeakyParallel(SIZE, 4, beta=0.5),
        "1: LeakyParallel clips negative potentials, and its input may be negative",
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_are_refused(name: str, tmp_path: Path) -> None:
    build, message = LAYERS[name]
    with pytest.raises(LossyConversionError if "its input is" not in message else GraphError, match=message):
        to_nir(weighted(build()), tmp_path / "n.nir")
    assert not list(tmp_path.iterdir())


LIF = {"beta": 0.9, "init_hidden": True}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "max-pool": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), snn.Leaky(**LIF)),
        (1, 8, 8),
        "1: the largest of potentials .* pool the spikes",
    ),
    "ceil": (
        lambda: nn.Sequential(snn.Leaky(**LIF), nn.MaxPool2d(2, ceil_mode=True), snn.Leaky(**LIF)),
        (1, 5, 5),
        "1: windows that stick out",
    ),
    "indices": (
        lambda: nn.Sequential(snn.Leaky(**LIF), nn.MaxPool2d(3, 1, 1, dilation=2), snn.Leaky(**LIF)),
        (1, 7, 7),
        "1: windows .* gaps",
    ),
    "divisor": (
        lambda: nn.Sequential(nn.AvgPool2d(2, divisor_override=3), snn.Leaky(**LIF)),
        (1, 4, 4),
        "0: NIR averages over the whole window",
    ),
    "padding": (
        lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), snn.Leaky(**LIF)),
        (1, 4, 4),
        "0: padding_mode 'circular'",
    ),
    "norm-behind-spikes": (
        lambda: nn.Sequential(snn.Leaky(**LIF), nn.BatchNorm2d(1), snn.Leaky(**LIF)),
        (1, 4, 4),
        "1: batch normalisation goes into the weights",
    ),
    "norm-statistics": (
        lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1, track_running_stats=False), snn.Leaky(**LIF)),
        (1, 4, 4),
        "1: .*track_running_stats",
    ),
    "parallel-weights": (
        lambda: snn.LeakyParallel(6, 4, beta=0.5),
        (6,),
        "0: LeakyParallel clips negative potentials, and a weight",
    ),
    "parallel-dense": (
        lambda: snn.LeakyParallel(6, 4, weight_hh_enable=True),
        (6,),
        "0: potentials that leak into each other",
    ),
    "parallel-mixed": (
        lambda: nn.Sequential(snn.LeakyParallel(6, 4, beta=0.5), snn.Leaky(**LIF)),
        (6,),
        r"LeakyParallel takes all steps at once, 1 \(Leaky\) does not",
    ),
    "linear": (
        lambda: nn.Sequential(nn.Linear(5, 4), snn.Leaky(**LIF)),
        (3, 5),
        "0: Linear on neurons of shape .* acts on the last dimension only",
    ),
    "pool-1d": (
        lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.AvgPool1d(2), snn.Leaky(**LIF)),
        (1, 8),
        "1: AvgPool1d has no NIR form here; NIR pools in two dimensions",
    ),
    "lstm-2d": (
        lambda: snn.SConv2dLSTM(1, 1, 3, init_hidden=True),
        (1, 4, 4),
        "0: SConv2dLSTM has no NIR form here; .*RLeaky",
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_are_refused(name: str, tmp_path: Path) -> None:
    build, shape, message = NETWORKS[name]
    with pytest.raises(LossyConversionError, match=message):
        to_nir(build().eval(), tmp_path / "n.nir", input_shape=shape)
    assert not list(tmp_path.iterdir())


def test_norm_read_twice(tmp_path: Path) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.bn, self.lif = nn.Linear(4, 4), nn.BatchNorm1d(4), snn.Leaky(**LIF)

        def forward(self, x: Any) -> Any:
            h = self.fc(x)
            return self.lif(self.bn(h) + h)

    with pytest.raises(LossyConversionError, match="lif: 'fc' is read in front of its batch normalisation 'bn' too"):
        to_nir(Shared().eval(), tmp_path / "n.nir")
