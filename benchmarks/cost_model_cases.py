"""Programs and settings for `cost_model.py`: what the unit costs are fitted to, and what the model is validated on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nsllm_nir.exporters import image as images
from nsllm_nir.exporters import rtl
from nsllm_nir.hw import toolchain
from nsllm_nir.hw.cost_model import Setting
from nsllm_nir.hw.simulated_bus import Surroundings
from nsllm_nir.program import Conv2d, Count, Delay, Gate, Input, Integrate, Lif, Linear, Op, Program, Sum, Widths

TOKENS = 3
WIDE = Widths(32, 32)


@dataclass(frozen=True, eq=False)
class Case:
    """A program, its spikes (tokens, neurons), and where it runs."""

    name: str
    program: Program
    spikes: NDArray[np.int64]
    setting: Setting

    def simulate(self) -> rtl.Cycles:
        """Clock cycles of the simulated engine, with all signals in the answer.

        Raises:
            BackendError: the engine refuses the program.
        """
        sizes = self.setting.sizes
        surroundings = Surroundings(latency=int(self.setting.latency), interval=int(self.setting.interval))
        executable = rtl.Executable(
            self.program, images.pack_image(self.program, sizes.beat_words), toolchain.build_rtl(sizes), surroundings
        )
        executable.run(self.spikes)
        assert executable.cycles is not None
        return executable.cycles


def setting(lanes: int, ports: int, latency: int, interval: int) -> Setting:
    return Setting(replace(toolchain.RTL_BUILD, lanes=lanes, ports=ports), latency, interval)


def graded(size: int, rate: float, levels: int, seed: int) -> NDArray[np.int64]:
    """Spikes (TOKENS, size); those that are not 0 are uniform in 1..levels."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, levels + 1, (TOKENS, size)) * (rng.random((TOKENS, size)) < rate)


def linear(
    name: str, source: str, outputs: int, inputs: int, bits: int, rng: np.random.Generator, plain: bool = False
) -> Linear:
    """Random weights of so many bits. plain: one bias and shift for all, which no memory is read for."""
    top = (1 << bits - 1) - 1
    weight = rng.integers(-top - 1, top + 1, (outputs, inputs)).astype(np.int8)
    weight[0, 0] = -top - 1
    bias, shift = (
        (np.zeros(outputs, np.int32), np.zeros(outputs, np.uint8))
        if plain
        else (rng.integers(-99, 99, outputs), rng.integers(0, 2, outputs))
    )
    return Linear(name, source, weight, bias, shift)


def one_linear(inputs: int, outputs: int, bits: int, levels: int, seed: int, plain: bool = False) -> Program:
    rng = np.random.default_rng(seed)
    return Program(
        (Input("input", inputs, levels), linear("linear", "input", outputs, inputs, bits, rng, plain)),
        ("linear",),
        WIDE,
    )


def one_conv(
    shape: tuple[int, int, int],
    outputs: int,
    kernel: int,
    bits: int,
    levels: int,
    seed: int,
    groups: int = 1,
    stride: int = 1,
) -> Program:
    rng = np.random.default_rng(seed)
    top = (1 << bits - 1) - 1
    weight = rng.integers(-top - 1, top + 1, (outputs, shape[0] // groups, kernel, kernel)).astype(np.int8)
    bias, pad = rng.integers(-9, 9, outputs), kernel // 2
    op = Conv2d(
        "conv", "input", weight, bias, rng.integers(0, 2, outputs), shape, (stride, stride), (pad, pad), (1, 1), groups
    )
    return Program((Input("input", int(np.prod(shape)), levels), op), ("conv",), WIDE)


def elementwise(size: int, levels: int, seed: int, plain: bool) -> Program:
    """Every elementwise op. plain: constants that all neurons share."""
    rng = np.random.default_rng(seed)

    def some(low: int, high: int) -> NDArray[np.int64]:
        return np.full(size, low) if plain else rng.integers(low, high, size)

    ops: list[Op] = [
        Input("input", size, 9),
        Count("count", "input", some(2, 6), levels),
        Count("binary", "input", some(2, 9), 1),
        Integrate("integrate", "input", 256 - 2 ** some(3, 8), 4),
        Sum("sum", ("input", "count", "integrate"), some(-9, 9)),
        Count("signed", "sum", some(3, 9), 2 * levels, True),
        Delay("delay", "count", np.ones(size, np.int64) if plain else rng.integers(0, 1 + levels, size)),
        Gate("gate", "binary", "input"),
        Sum("sum_of_six", ("input", "count", "gate", "delay", "input", "sum"), some(-9, 9)),
        Sum("step", ("input",), some(20, 40)),
        Count("by_signal", "sum", "step", levels),
        Lif("lif", "sum", some(200, 4000), some(300, 4000), some(30, 90), some(-3, 3)),
        Lif("potential", "sum", some(200, 4000), some(300, 4000), None, some(-3, 3)),
    ]
    return Program(tuple(ops), ("potential",), WIDE)


BUILDS = [(64, 4), (128, 8), (256, 16)]
MEMORIES = [(20, 1), (100, 1), (20, 4), (3, 2)]  # latency, interval


def fit_cases() -> Iterator[Case]:
    """What the unit costs are fitted to: single layers and a chain of elementwise ops, on 3 builds and 4 memories."""
    for seed, ((lanes, ports), (latency, interval)) in enumerate(itertools.product(BUILDS, MEMORIES)):
        programs: list[tuple[str, Program, float]] = [
            *(
                (f"elementwise {n}", elementwise(n, levels, seed, plain), 0.3)
                for n, levels, plain in ((120, 2, False), (700, 5, False), (200, 3, True))
            ),
            ("linear 200 to 500, plain", one_linear(200, 500, 2, 2, seed, plain=True), 0.1),
        ]
        for inputs, outputs, bits, levels, rate in (
            (512, 100, 2, 1, 0.02),
            (512, 700, 2, 3, 0.1),
            (256, 384, 4, 15, 0.3),
            (400, 200, 8, 1, 0.2),
            (1500, 64, 2, 1, 0.05),
            (300, 300, 2, 300, 0.15),
            (64, 2000, 2, 4, 0.1),
            (200, 30, 8, 9, 0.5),
        ):
            programs.append((f"linear {inputs} to {outputs}", one_linear(inputs, outputs, bits, levels, seed), rate))
        for shape, outputs, kernel, bits, levels, groups, rate in (
            ((3, 6, 5), 20, 3, 4, 1, 1, 0.2),
            ((8, 5, 5), 150, 3, 2, 3, 1, 0.1),
            ((6, 4, 4), 6, 3, 8, 40, 3, 0.4),
            ((1, 8, 7), 8, 5, 8, 1, 1, 0.05),
            ((30, 1, 1), 30, 1, 2, 3, 30, 0.3),
        ):
            programs.append((f"conv of {outputs}", one_conv(shape, outputs, kernel, bits, levels, seed, groups), rate))
        for name, program, rate in programs:
            node = program.inputs[0]
            yield Case(
                f"fit: {name}",
                program,
                graded(node.size, rate, node.levels, seed),
                setting(lanes, ports, latency, interval),
            )
