"""The validation set of `cost_model.py`: models, layers and settings that its constants were not fitted to."""

from __future__ import annotations

import runpy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from cost_model_cases import WIDE, Case, linear, one_conv, one_linear, setting
from numpy.typing import NDArray

import nsllm_nir
from nsllm_nir import lower, quantize, to_nir
from nsllm_nir.program import Conv2d, Count, Delay, Gate, Input, Integrate, Lif, Op, Program, Sum, reference
from nsllm_nir.verification import inputs

EXAMPLES = Path(__file__).parents[1] / "examples"
TOKENS = 4


def spikes(program: Program, rate: float, seed: int) -> NDArray[np.int64]:
    """(TOKENS, neurons), uniform in 1..levels where there is one."""
    node, rng = program.inputs[0], np.random.default_rng(seed)
    return rng.integers(1, node.levels + 1, (TOKENS, node.size)) * (rng.random((TOKENS, node.size)) < rate)


def shipped() -> Program:
    """The language model that comes with the package."""
    model = nsllm_nir.NSLLMForCausalLM.from_pretrained(
        Path(nsllm_nir.__file__).parent / "language_model" / "checkpoint"
    ).eval()
    with tempfile.TemporaryDirectory() as folder:
        return lower(to_nir(model, Path(folder) / "model.nir"))


def text(tokens: int) -> NDArray[np.int64]:
    """Held-out text as input spikes."""
    return reference.one_hot(inputs.held_out("pydoc", tokens), 256)


def untrained(hidden: int, layers: int, bits: int, levels: int, normalisation: str = "none") -> Program:
    """A language model of other sizes with random weights."""
    import torch

    torch.manual_seed(0)
    config = nsllm_nir.NSLLMConfig(
        hidden_size=hidden, num_hidden_layers=layers, weight_bits=bits, levels=levels, normalisation=normalisation
    )
    with tempfile.TemporaryDirectory() as folder:
        return lower(to_nir(nsllm_nir.NSLLMForCausalLM(config).eval(), Path(folder) / "model.nir"))


def example(script: str) -> tuple[Program, NDArray[np.int64]]:
    """The trained, quantized graph of an example and its first test spikes, taken where it calls `compare`."""
    taken: dict[str, Any] = {}

    def compare(source: Any, samples: Any, labels: Any, *, calibration: Any, **others: Any) -> bool:
        integers, _ = quantize(source, calibration=calibration.reshape(-1, calibration.shape[2]))
        taken.update(program=lower(integers), spikes=samples[0][:12].astype(np.int64))
        return True

    module = sys.modules["comparison"] = SimpleNamespace(compare=compare)  # type: ignore[assignment]
    assert module
    try:
        runpy.run_path(str(EXAMPLES / script))
    except SystemExit:
        pass
    finally:
        del sys.modules["comparison"]
    return taken["program"], taken["spikes"]


def attention(width: int, layers: int, bits: int, seed: int) -> Program:
    """A random network of the ops of spiking attention, with sizes that no model here has."""
    rng = np.random.default_rng(seed)

    def step(low: int, high: int, size: int = width) -> NDArray[np.int64]:
        return rng.integers(low, high, size)

    ops: list[Op] = [Input("input", 300, 3), linear("embedding", "input", width, 300, 8, rng)]
    h = "embedding"
    for i in range(layers):
        p = f"layer_{i}."
        ops += [
            Count(p + "spikes", h, step(60, 300), 3 + i, signed=True),
            Delay(p + "shift", p + "spikes", rng.integers(0, 3, width)),
            linear(p + "key", p + "shift", width, width, bits, rng),
            linear(p + "value", p + "shift", width, width, 2, rng),
            Count(p + "key_spikes", p + "key", step(20, 90), 1),
            Count(p + "value_spikes", p + "value", step(10, 30), 6),
            Gate(p + "gate", p + "key_spikes", p + "value_spikes"),
            Integrate(p + "state", p + "gate", 256 - 2 ** rng.integers(3, 8, width), 5),
            Lif(
                p + "lif",
                p + "state",
                np.full(width, 400),
                np.full(width, 300),
                np.full(width, 300),
                np.zeros(width, np.int64),
            ),
            linear(p + "up", p + "lif", 3 * width, width, bits, rng),
            Count(p + "up_spikes", p + "up", step(10, 60, 3 * width), 20),
            linear(p + "down", p + "up_spikes", width, 3 * width, 4, rng),
            Sum(p + "residual", (h, p + "down", p + "state"), np.zeros(width, np.int64)),
        ]
        h = p + "residual"
    return Program(tuple(ops), (h,), WIDE)


def images(channels: int, seed: int) -> Program:
    """Two convolutions, a sum pooling and a classifier."""
    rng = np.random.default_rng(seed)

    def conv(name: str, source: str, shape: tuple[int, int, int], outputs: int, stride: int, bits: int) -> Conv2d:
        top = (1 << bits - 1) - 1
        weight = rng.integers(-top - 1, top + 1, (outputs, shape[0], 3, 3)).astype(np.int8)
        bias = rng.integers(-9, 9, outputs)
        return Conv2d(
            name, source, weight, bias, np.zeros(outputs, np.uint8), shape, (stride, stride), (1, 1), (1, 1), 1
        )

    ones, zeros = np.ones((channels, 1, 2, 2), np.int8), np.zeros(channels, np.uint8)
    pool = Conv2d(
        "pool", "spikes1", ones, zeros.astype(np.int32), zeros, (channels, 10, 10), (2, 2), (0, 0), (1, 1), channels
    )
    size = 2 * channels * 25
    ops: list[Op] = [
        Input("input", 200, 1),
        conv("conv1", "input", (2, 10, 10), channels, 1, 8),
        Lif("spikes1", "conv1", *(np.full(100 * channels, v) for v in (4096, 300, 200, 0))),
        pool,
        conv("conv2", "pool", (channels, 5, 5), 2 * channels, 1, 4),
        Lif("spikes2", "conv2", *(np.full(size, v) for v in (4096, 200, 40, 0))),
        linear("classes", "spikes2", 11, size, 8, rng),
    ]
    return Program(tuple(ops), ("classes",), WIDE)


def cases() -> Iterator[Case]:
    """At least twenty models and settings."""
    model = shipped()
    for lanes, ports, latency, interval in ((64, 4, 20, 1), (128, 8, 40, 1), (256, 16, 60, 2), (128, 4, 20, 3)):
        yield Case("shipped language model", model, text(3), setting(lanes, ports, latency, interval))
    for script in ("digits_classifier.py", "recurrent_series.py"):
        program, given = example(script)
        for lanes, ports, latency, interval in ((64, 4, 30, 1), (256, 8, 50, 2)):
            yield Case(f"examples/{script}", program, given, setting(lanes, ports, latency, interval))
    for hidden, layers, bits, levels, normalisation, where in (
        (96, 2, 2, 4, "none", (128, 8, 30, 1)),
        (160, 1, 4, 8, "pooled", (64, 4, 50, 1)),
        (256, 1, 2, 2, "none", (256, 8, 80, 1)),
    ):
        program = untrained(hidden, layers, bits, levels, normalisation)
        yield Case(
            f"untrained language model, hidden {hidden}, {bits} bits, {normalisation}",
            program,
            text(2),
            setting(*where),
        )
    for width, layers, bits, rate, where in (
        (90, 2, 2, 0.1, (64, 4, 10, 1)),
        (200, 1, 4, 0.3, (128, 4, 35, 2)),
        (333, 1, 8, 0.05, (256, 8, 70, 1)),
        (130, 3, 2, 0.5, (128, 8, 120, 1)),
    ):
        program = attention(width, layers, bits, width)
        yield Case(
            f"random attention, width {width}, {bits} bits, rate {rate:.0%}",
            program,
            spikes(program, rate, width),
            setting(*where),
        )
    for channels, rate, where in ((6, 0.1, (64, 4, 25, 1)), (12, 0.3, (128, 8, 45, 2)), (20, 0.02, (256, 8, 15, 1))):
        program = images(channels, channels)
        yield Case(
            f"random convolutions, {channels} channels, rate {rate:.0%}",
            program,
            spikes(program, rate, 1),
            setting(*where),
        )
    for inputs_, outputs, bits, levels, rate, where in (
        (1024, 1024, 2, 1, 0.05, (64, 4, 20, 1)),
        (1024, 1024, 2, 1, 0.25, (256, 8, 60, 1)),
        (2048, 333, 4, 4, 0.1, (128, 4, 40, 3)),
        (96, 4000, 2, 2, 0.1, (256, 16, 50, 2)),
        (900, 450, 8, 7, 0.5, (128, 8, 25, 1)),
        (3000, 128, 2, 30, 0.01, (64, 4, 150, 2)),
    ):
        program = one_linear(inputs_, outputs, bits, levels, 99)
        yield Case(
            f"linear {inputs_} to {outputs}, {bits} bits, levels {levels}, rate {rate:.0%}",
            program,
            spikes(program, rate, 7),
            setting(*where),
        )
    program = one_conv((4, 9, 9), 40, 5, 4, 2, 98, stride=2)
    yield Case(
        "conv 5x5 with stride 2, 40 outputs, rate 15%", program, spikes(program, 0.15, 3), setting(128, 4, 30, 1)
    )
