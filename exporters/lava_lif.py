"""Registers of Lava's LIF for a `Lif`, and the exactness conditions of the stock forms (no Lava import here).

Lava's bias acts from the first step, before the first token has travelled to the neuron. A bias
therefore takes one of two exact ways: as a synapse from the constant lanes, or in the register
together with an initial potential that is exactly 0 when the first token arrives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.program import Lif, Signal
from nsllm_nir.program.constants import (
    LIF_DECAY_BITS,
    LIF_DECAY_ONE,
    LIF_FRACTION_BITS,
    LIF_LIMIT,
    LIF_MAX_THRESHOLD,
)
from nsllm_nir.program.operations.lif import current_bound

Ints = NDArray[np.signedinteger[Any]]
EXPONENTS = range(8)  # of the bias
MANTISSA = (-4096, 4095)
RANGES = {
    "du": (0, LIF_DECAY_ONE - 1),
    "dv": (0, LIF_DECAY_ONE - 1),
    "vth": (0, LIF_MAX_THRESHOLD),
    "bias_mant": MANTISSA,
    "bias_exp": (0, 7),
    "v": (-LIF_LIMIT, LIF_LIMIT),
}
NAMES = {"du": "current_decay - 1", "dv": "voltage_decay"}


@dataclass(frozen=True)
class Registers:
    """One Lif in Lava. memoryless: both decays are full, so a reset at every step (`LIFReset`) is the same.

    values: {register: (neurons,)} int64, v the initial potential; lanes: constant synaptic input
    (neurons,); reason: why the Lif cannot be held exactly, or "".
    """

    memoryless: bool
    values: dict[str, Ints]
    lanes: Ints
    reason: str = ""


def registers(op: Lif, source: Signal, lag: int) -> Registers:
    """Registers of ``op``, whose first token arrives at its synapses in Lava step ``lag`` + 1."""
    assert op.threshold is not None
    du, dv, bias, vth = (x.astype(np.int64) for x in (op.current_decay, op.voltage_decay, op.bias, op.threshold))
    du -= 1  # Lava adds it again
    if (du == LIF_DECAY_ONE - 1).all() and (dv == LIF_DECAY_ONE).all():
        lanes = -(-bias >> LIF_FRACTION_BITS)  # 64 a + bias > 64 vth exactly when a + ceil(bias / 64) > vth
        return Registers(True, {"vth": vth}, lanes, _current_reason(source, lanes))
    lanes = np.where(
        du == LIF_DECAY_ONE - 1, bias >> LIF_FRACTION_BITS, 0
    )  # without memory the current passes a constant on unchanged
    rest = bias - (lanes << LIF_FRACTION_BITS)
    mantissa, exponent = _split(rest)
    start, reason = _initial(rest, dv, vth, lag)
    values = {"du": du, "dv": dv, "vth": vth, "bias_mant": mantissa, "bias_exp": exponent, "v": start}
    return Registers(
        False,
        values,
        lanes,
        _range_reason(values) or _bias_reason(rest, mantissa, exponent) or _current_reason(source, lanes) or reason,
    )


def _split(bias: Ints) -> tuple[Ints, Ints]:
    """The smallest exponent whose mantissa has 13 bits (low bits may be lost: `_bias_reason` compares)."""
    exponent = np.zeros_like(bias)
    for _ in EXPONENTS[1:]:
        mantissa = bias >> exponent
        exponent += (mantissa < MANTISSA[0]) | (mantissa > MANTISSA[1])
    return bias >> exponent, exponent


def _range_reason(values: dict[str, Ints]) -> str:
    for name, (low, high) in RANGES.items():
        bad = np.flatnonzero((values[name] < low) | (values[name] > high))
        if bad.size:
            i = int(bad[0])
            meaning = f" ({NAMES[name]})" if name in NAMES else ""
            return (
                f"neuron {i}: the LIF register {name}{meaning} would be {values[name][i]}, it holds [{low}, {high}]; "
                "use another value or the backend 'lava'"
            )
    return ""


def _bias_reason(bias: Ints, mantissa: Ints, exponent: Ints) -> str:
    bad = np.flatnonzero(mantissa << exponent != bias)
    if not bad.size:
        return ""
    return (
        f"neuron {int(bad[0])}: the bias {bias[bad[0]]} is no 13-bit mantissa with an exponent in [0, 7]; "
        "use a rounder bias or the backend 'lava'"
    )


def _current_reason(source: Signal, lanes: Ints) -> str:
    worst = np.maximum(np.abs(source.low + lanes), np.abs(source.high + lanes)) << LIF_FRACTION_BITS
    bad = np.flatnonzero((lanes != 0) & (worst > LIF_LIMIT))
    return (
        f"neuron {int(bad[0])}: the synaptic input with its bias reaches {worst[bad[0]]}, a current holds 24 bits; "
        "use smaller weights"
        if bad.size
        else ""
    )


def _initial(bias: Ints, dv: Ints, vth: Ints, steps: int) -> tuple[Ints, str]:
    """The potential from which ``bias`` alone leads to exactly 0 after ``steps`` steps, without a spike.

    Of all potentials with the right successor the one nearest to 0 is taken, step by step backwards.
    """
    v, bad = np.zeros_like(bias), np.zeros(bias.shape, bool)
    keep = np.maximum(LIF_DECAY_ONE - dv, 1)
    for step in range(steps):
        bad |= (step > 0) & (v > vth << LIF_FRACTION_BITS)  # a potential that is reached, not the initial one
        need = v - bias
        v = np.sign(need) * -(-(np.abs(need) * LIF_DECAY_ONE) // keep)
        bad |= np.abs(v) > LIF_LIMIT
        v = np.where(bad, 0, v)
    if not bad.any():
        return v, ""
    i = int(np.flatnonzero(bad)[0])
    return v, (
        f"neuron {i}: no initial potential makes up for the bias {bias[i]} in the {steps} Lava steps before the first "
        "token; "
        "use a bias that is a multiple of 64 with current_decay 4096, or the backend 'lava'"
    )


@dataclass(frozen=True)
class Integrator:
    """A Lif without threshold as `GradedVec` neurons. current, potential: recurrent weights over 256 of u and v."""

    current: Ints
    potential: Ints
    current_low: int
    current_high: int
    reason: str


def integrator(op: Lif, source: Signal) -> Integrator:
    """The exact form of ``op`` without threshold; where there is none, ``reason`` says why."""
    u = np.maximum(current_bound(op, source), 0)
    u_low = np.where(source.low < 0, -u, 0)
    cd, dv, bias = (x.astype(np.int64) for x in (op.current_decay, op.voltage_decay, op.bias))
    low, high = u_low + bias, u + bias
    v_low = np.where(dv == LIF_DECAY_ONE, low, np.minimum(low, 0))
    v_high = np.where(dv == LIF_DECAY_ONE, high, (np.maximum(high, 0) << LIF_DECAY_BITS) // np.maximum(dv, 1) + 1)
    reason = _decay_reason("current_decay", cd, source.low) or _decay_reason("voltage_decay", dv, low)
    bad = np.flatnonzero((v_low < -LIF_LIMIT) | (v_high > LIF_LIMIT))
    if not reason and bad.size:
        reason = (
            f"neuron {int(bad[0])}: v may saturate at 24 bits, which GradedVec does not; "
            "use smaller weights or a larger voltage_decay"
        )
    current, potential = (LIF_DECAY_ONE - decay.astype(np.int64) >> 4 for decay in (op.current_decay, op.voltage_decay))
    return Integrator(current, potential, int(u_low.min()), int(u.max()), reason)


def _decay_reason(name: str, decay: Ints, low: Ints) -> str:
    """A recurrent synapse floors and has 8-bit weights; the Lif rounds toward zero and has 12-bit decays."""
    bad = np.flatnonzero((decay % 16 != 0) | (decay < 16))
    if bad.size:
        return (
            f"neuron {int(bad[0])}: without a threshold, {name} {decay[bad[0]]} is no multiple of 16 in [16, 4096], "
            "which an 8-bit recurrent weight needs; "
            "use the backend 'lava'"
        )
    bad = np.flatnonzero((decay != LIF_DECAY_ONE) & (low < 0))
    if bad.size:
        return (
            f"neuron {int(bad[0])}: without a threshold, a negative state would round down instead of toward zero "
            f"({name} {decay[bad[0]]}); "
            "use the backend 'lava'"
        )
    return ""
