"""Spiking neurons in torch: integer definition, gradients, binary mode, and the company of snnTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import snntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from snntorch import surrogate, utils

from nsllm_nir.language_model.neuron import (
    LeakyIntegrator,
    SpikeCount,
    SpikeGate,
    TokenShift,
    round_straight_through,
    spike_count,
)
from nsllm_nir.language_model.spiking_linear import SpikingLinear
from nsllm_nir.program.operations.count import count

pytestmark = pytest.mark.usefixtures("one_thread")
UNITS = st.sampled_from([1.0, 2.0**-6, 2.0**-14, 4.0])


def neuron(levels: int, *, signed: bool = False, channels: int = 1, binary: bool = False, **kwargs: Any) -> SpikeCount:
    made = SpikeCount(channels, levels, signed=signed, **kwargs)
    made.binary_mode = binary
    return made


@given(
    step=st.integers(1, 2**20),
    levels=st.integers(1, 8),
    m=st.integers(1, 8),
    offset=st.integers(-3, 3),
    free=st.integers(-(2**22), 2**22),
    near=st.booleans(),
    signed=st.booleans(),
    unit=UNITS,
)
@settings(max_examples=300)
def test_count_equals_the_integer_definition(
    step: int, levels: int, m: int, offset: int, free: int, near: bool, signed: bool, unit: float
) -> None:
    """Ties and their neighbours included, as long as 2 D step stays below 2**23 units; count and binary mode alike."""
    levels = max(1, min(levels, 2**23 // (2 * step) - 1))
    v = (2 * min(m, levels) - 1) * step // 2 + offset if near else free
    expected = int(count(np.array(v), np.array(step), levels))
    if signed:
        expected -= int(count(np.array(-v), np.array(step), levels))
    potential, threshold = torch.tensor([[[v * unit]]]), torch.tensor([[[step * unit]]])
    assert spike_count(potential, threshold, levels, signed=signed).item() == expected
    binary = neuron(levels, signed=signed, binary=True)(potential, unit, threshold)
    assert binary.shape == (levels, 1, 1, 1) and binary.sum().item() == expected
    assert set(binary.unique().tolist()) <= ({-1.0, 0.0, 1.0} if signed else {0.0, 1.0})


@pytest.mark.parametrize("signed", [False, True])
def test_binary_spikes_come_in_thermometer_order(signed: bool) -> None:
    potential = torch.arange(-40, 41, dtype=torch.float32)[None, :, None]
    binary = neuron(4, signed=signed, binary=True)(potential, 1.0, torch.tensor(5.0))
    count = neuron(4, signed=signed)(potential, 1.0, torch.tensor(5.0))
    assert count.shape == (1, 1, 81, 1) and torch.equal(binary.sum(0), count[0])
    assert (binary.abs()[1:] <= binary.abs()[:-1]).all()


def test_threshold_is_rounded_to_integer_units_and_at_least_one() -> None:
    made = neuron(1, channels=4)
    with torch.no_grad():
        made.threshold.copy_(torch.tensor([0.3, 0.5, 1.0, -3.0]))
    assert made.integer_step(0.25).tolist() == [1.0, 2.0, 4.0, 1.0]


def test_count_gradient_is_the_rectangular_window() -> None:
    # Step 2, three levels, margin 0.5: the window of v is [-1, 7]; inside, the gradient is 1/2.
    v = torch.tensor([-1.01, -1.0, 0.0, 3.0, 7.0, 7.01], requires_grad=True)
    step = torch.tensor([2.0] * 6, requires_grad=True)
    spike_count(v, step, 3).sum().backward()
    assert v.grad is not None and step.grad is not None
    assert v.grad.tolist() == [0.0, 0.5, 0.5, 0.5, 0.5, 0.0]
    assert step.grad.tolist() == pytest.approx([0.0, 0.25, 0.0, -0.75, -1.75, 0.0])  # -v / step**2 inside
    v.grad = None
    spike_count(v, torch.tensor(2.0), 3, signed=True, margin=0.0).sum().backward()
    grad: Any = v.grad
    assert grad.tolist() == [0.5, 0.5, 0.5, 0.5, 0.0, 0.0]


def test_step_gradient_has_the_shape_of_a_shared_step() -> None:
    step = torch.full((3,), 2.0, requires_grad=True)
    spike_count(torch.ones(4, 5, 3), step, 2).sum().backward()
    assert step.grad is not None and step.grad.tolist() == pytest.approx([-20 * 0.25] * 3)


def test_rounding_is_half_up_with_identity_gradient() -> None:
    x = torch.tensor([0.49, 0.5, 1.5, -0.5, -0.51], requires_grad=True)
    y = round_straight_through(x)
    y.sum().backward()
    assert y.tolist() == [0.0, 1.0, 2.0, 0.0, -1.0] and x.grad is not None and x.grad.tolist() == [1.0] * 5


@given(
    data=st.lists(st.lists(st.integers(-9, 9), min_size=3, max_size=3), min_size=1, max_size=12),
    start=st.integers(-5000, 5000),
    bits=st.integers(0, 8),
)
def test_integrator_equals_the_integer_recurrence(data: list[list[int]], start: int, bits: int) -> None:
    x, shift = np.array(data), np.array([2, 5, 7])
    module = LeakyIntegrator(3, bits)
    with torch.no_grad():
        module.shift.copy_(torch.from_numpy(shift))
    s, expected = np.full(3, start), []
    for row in x:
        s = ((s * (256 - (1 << shift))) >> 8) + (row << bits)
        expected.append(s)
    out = module(torch.from_numpy(x).float()[None, :, None], torch.full((1, 1, 3), float(start)))
    assert out[0, :, 0].tolist() == np.array(expected).tolist()


def test_integrator_gradient_is_that_of_the_recurrence_without_floor() -> None:
    torch.manual_seed(0)
    x = torch.randint(-9, 9, (2, 7, 2, 3)).float().requires_grad_()
    state = torch.randint(-99, 99, (2, 2, 3)).float()
    module = LeakyIntegrator(3, 4)
    with torch.no_grad():
        module.shift.copy_(torch.tensor([2.0, 4.0, 7.0]))
    weight = torch.randn(2, 7, 2, 3)
    out = module(x, state)
    grads = torch.autograd.grad((out * weight).sum(), [x, module.shift])

    shift, s, states = module.shift.detach().clone().requires_grad_(), state, []
    for t, x_t in enumerate(x.unbind(1)):
        # The value of the floored state, the gradient of the plain recurrence.
        exact = s * (1 - torch.exp2(shift - 8)) + x_t * 16
        s = exact + (out[:, t] - exact).detach()
        states.append(s)
    expected = torch.autograd.grad((torch.stack(states, 1) * weight).sum(), [x, shift])
    for found, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(found, want)


def test_integrator_shift_stays_in_its_range() -> None:
    module = LeakyIntegrator(3, 0)
    with torch.no_grad():
        module.shift.copy_(torch.tensor([-4.0, 4.4, 99.0]))
    assert module.integer_shift().tolist() == [2.0, 4.0, 7.0]


def test_token_shift_delays_half_of_the_channels() -> None:
    spikes = torch.arange(12.0).view(1, 1, 3, 4)
    shifted, last = TokenShift(4)(spikes, None)
    assert shifted[0, 0].tolist() == [[0, 0, 2, 3], [0, 1, 6, 7], [4, 5, 10, 11]]
    assert TokenShift(4)(spikes, last)[0][0, 0, 0].tolist() == [8, 9, 2, 3]


def test_gate_is_a_logical_and() -> None:
    gate, source = (
        torch.tensor([0.0, 1, 0, 1]).view(1, 1, 1, 4),
        torch.tensor([[0.0, 0, 1, 1], [1, 1, 1, 0]]).view(2, 1, 1, 4),
    )
    assert SpikeGate()(gate, source).view(2, 4).tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]


def test_it_is_an_snntorch_neuron() -> None:
    made = neuron(3, channels=2)
    assert isinstance(made, snntorch.SpikingNeuron) and isinstance(made.threshold, torch.nn.Parameter)
    assert made not in snntorch.SpikingNeuron.instances  # no hidden state for `init_hidden` to detach


@pytest.mark.parametrize(
    "spike_grad",
    [surrogate.fast_sigmoid(slope=5), surrogate.atan(), surrogate.sigmoid(), None],
    ids=["fast", "atan", "sigmoid", "default"],
)
def test_surrogates_of_snntorch_train_the_unrolled_neuron(
    spike_grad: Callable[[torch.Tensor], torch.Tensor] | None,
) -> None:
    made = neuron(4, spike_grad=spike_grad, binary=True)
    potential = torch.linspace(-1, 5, 13)[None, :, None].requires_grad_()
    spikes = made(potential, 2.0**-6)
    assert torch.equal(spikes.sum(0), neuron(4)(potential, 2.0**-6)[0])
    spikes.sum().backward()
    assert potential.grad is not None and potential.grad.isfinite().all() and (potential.grad > 0).any()
    assert made.threshold.grad is not None and made.threshold.grad.abs().item() > 0


def test_reset_of_snntorch_leaves_a_mixed_network_working() -> None:
    """`utils.reset` resets the snnTorch neurons beside ours, before and after a run."""
    net: Any = torch.nn.ModuleList([snntorch.Leaky(beta=0.5, init_hidden=True), neuron(2), SpikingLinear(1, 1, 8)])
    utils.reset(net)
    first = net[1](net[0](torch.full((1, 1, 1), 3.0)), 1.0)
    assert net[0].mem.abs().sum() > 0
    utils.reset(net)
    assert float(net[0].mem.abs().sum()) == 0 and torch.equal(net[1](net[0](torch.full((1, 1, 1), 3.0)), 1.0), first)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantized_weights_are_integers_in_range_at_a_power_of_two(bits: int) -> None:
    torch.manual_seed(bits)
    layer = SpikingLinear(40, 9, bits, bias=0.3, gain=3.0)
    numbers, unit = layer.integers(), layer.unit()
    limit = {2: 1, 4: 7, 8: 127}[bits]
    assert abs(numbers.weight).max() == limit and numbers.weight.min() == -limit
    assert torch.equal(torch.exp2(torch.from_numpy(numbers.exponent).float()), unit)
    assert torch.equal(layer.quantized(unit), torch.from_numpy(numbers.weight).float() * unit[:, None])
    spikes = torch.randint(0, 5, (1, 1, 6, 40)).float()
    potential, same = layer(spikes)
    expected = spikes[0, 0].numpy().astype(int) @ numbers.weight.T.astype(int) + numbers.bias
    assert (potential[0] / same).tolist() == expected.tolist()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_freezing_a_layer_keeps_its_function(bits: int) -> None:
    torch.manual_seed(bits)
    layer = SpikingLinear(12, 5, bits, bias=0.7, lowest_exponent=-3)
    spikes = torch.randint(0, 3, (2, 1, 4, 12)).float()
    before, numbers = layer(spikes)[0], layer.integers()
    layer.freeze()
    layer.freeze()
    assert layer.frozen and layer.weight.dtype == torch.int8 and torch.equal(layer(spikes)[0], before)
    assert (layer.integers().bias == numbers.bias).all() and layer.unit().log2().min() >= -3


def test_straight_through_gradient_of_a_weight_is_that_of_a_linear_layer() -> None:
    layer, spikes = SpikingLinear(3, 2, 4), torch.tensor([[[[1.0, 0.0, 2.0]]]])
    layer(spikes)[0].sum().backward()
    assert isinstance(layer.weight, torch.nn.Parameter) and layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[1.0, 0.0, 2.0]] * 2
