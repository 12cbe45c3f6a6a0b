"""Speed of a 512-1024-1024-256 LIF network at batch 1: our reference and backends beside snnTorch, norse and Lava.

    python benchmarks/lif_speed.py        # writes benchmarks/lif_speed.md

64 steps, 10 % input, thresholds that give about 10 % in every layer. All candidates take turns in one run; torch runs
on one thread, Lava's Processes on all cores. The best wall time of each counts, and only ratios are written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsllm_nir import exporters
from nsllm_nir.program import Input, Lif, Linear, Op, Program
from nsllm_nir.program.trace import compare

SIZES, STEPS = (512, 1024, 1024, 256), 64
TURNS, CALLS, LAVA_TURNS, LAVA_CALLS = 10, 4, 3, 25
VOLTAGE_DECAY = 410  # of 4096: beta = 0.9
THRESHOLDS = (610, 1078, 961)
SNNTORCH = "snnTorch 1.0.0 `Leaky`, reset to zero"
LAVA_OUTPUT = "Lava 0.10.0, a `Dense` and a `LIF` Process per layer: output spikes"
LAVA_ALL = "the same Processes: spikes of all layers"
Times = dict[str, list[float]]


def network(rng: np.random.Generator) -> Program:
    """Int8 weights and Loihi LIF neurons."""
    ops: list[Op] = [Input("input", SIZES[0])]
    for i, (inputs, outputs, threshold) in enumerate(zip(SIZES, SIZES[1:], THRESHOLDS, strict=False)):
        weight = rng.integers(-127, 128, (outputs, inputs)).astype(np.int8)
        zeros = np.zeros(outputs, np.int32)
        ops.append(Linear(f"linear_{i}", ops[-1].name, weight, zeros, zeros.astype(np.uint8)))
        ops.append(
            Lif(
                f"lif_{i}",
                ops[-1].name,
                np.full(outputs, 4096),
                np.full(outputs, VOLTAGE_DECAY),
                np.full(outputs, threshold),
                zeros,
            )
        )
    return Program(tuple(ops), (ops[-1].name,))


def torch_peer(program: Program, spikes: np.ndarray, step: Callable[[int], Any]) -> Callable[[], int]:
    """The same weights in float32, stepped as the library steps them; returns its output spikes."""
    x = torch.tensor(spikes, dtype=torch.float32)
    weights = [torch.tensor(op.weight, dtype=torch.float32) for op in program.ops if isinstance(op, Linear)]
    neurons = [step(threshold) for threshold in THRESHOLDS]

    def run() -> int:
        states: list[Any] = [None] * len(neurons)
        total = 0
        with torch.no_grad():
            for row in x:
                s = row[None]
                for i, (weight, neuron) in enumerate(zip(weights, neurons, strict=True)):
                    s, states[i] = neuron(s @ weight.T, states[i])
                total += int(s.sum())
        return total

    return run


def snntorch_neuron(threshold: int, **reset: Any) -> Any:
    """A step function (input, state) of snnTorch; without ``reset``, its default."""
    import snntorch

    leaky = snntorch.Leaky(beta=1 - VOLTAGE_DECAY / 4096, threshold=float(threshold), **reset)
    return lambda x, mem: leaky(x, torch.zeros_like(x) if mem is None else mem)


def norse_neuron(threshold: int) -> Any:
    """A step function of norse, whose default resets to zero."""
    from norse.torch import LIFBoxCell, LIFBoxParameters

    # dt tau_mem_inv = 0.1001 with unit gain: norse multiplies the input by it, so the threshold is scaled as well.
    rate = VOLTAGE_DECAY / 4096
    return LIFBoxCell(
        LIFBoxParameters(tau_mem_inv=torch.tensor(rate / 0.001), v_th=torch.tensor(threshold * rate)), dt=0.001
    )


def timed(times: Times, name: str, run: Callable[[], Any], repeat: int = 1) -> None:
    """Add the seconds of every call."""
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.setdefault(name, []).append(time.perf_counter() - start)


def lava_peer(program: Program, spikes: np.ndarray, recorded: int) -> tuple[list[float], int]:
    """Seconds of the runs of `lava_peer.py` without its start, and its output spikes."""
    weights: dict[str, Any] = {
        f"weight_{i}": op.weight for i, op in enumerate(op for op in program.ops if isinstance(op, Linear))
    }
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "net.npz", spikes=spikes, thresholds=THRESHOLDS, voltage_decay=VOLTAGE_DECAY, **weights)
        script = Path(__file__).with_name("lava_peer.py")
        command = [sys.executable, "-P", str(script), str(Path(folder) / "net.npz"), str(LAVA_CALLS), str(recorded)]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        done = subprocess.run(command, env={**os.environ, **threads}, stdout=subprocess.PIPE, check=True, timeout=120)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["runs"], result["spikes"]


def measure(program: Program, spikes: np.ndarray) -> tuple[Times, dict[str, int], np.ndarray]:
    """Seconds of every round of every candidate, output spikes of the peers, and the spike rates of the layers.

    Raises:
        SystemExit: a backend differs from the reference, or stock Lava counts other output spikes.
    """
    executables: dict[str, Any] = {
        name: exporters.load(name).compile(program) for name in ("reference", "lava", "lava-stock", "hls")
    }
    expected = executables["reference"].run(spikes)
    for name, executable in executables.items():
        if any(node.differences for node in compare(expected, executable.run(spikes))):
            raise SystemExit(f"{name} differs from the reference")
    zero = torch_peer(
        program, spikes, lambda threshold: snntorch_neuron(threshold, reset_mechanism="zero", reset_delay=False)
    )
    default, norse = torch_peer(program, spikes, snntorch_neuron), torch_peer(program, spikes, norse_neuron)
    times: Times = {}
    with executables["hls"].open() as engine:
        rows: dict[str, Callable[[], Any]] = {
            SNNTORCH: zero,
            "snnTorch 1.0.0 `Leaky`, its default (subtract, one step late)": default,
            "norse 1.1.0 `LIFBoxCell`": norse,
            "reference": lambda: executables["reference"].run(spikes),
            "hls, loaded engine, output spikes": lambda: engine.run(spikes, traced=False),
            "hls, loaded engine, spikes of all layers": lambda: engine.run(spikes, traced=True),
            "hls, loaded engine, one request per step": lambda: [engine.step(row) for row in spikes],
            "hls, `run`: process start, loading, spikes of all layers": lambda: executables["hls"].run(spikes),
        }
        for _ in range(TURNS):
            for name, run in rows.items():
                timed(times, name, run, CALLS)
    for _ in range(LAVA_TURNS):
        for name, recorded in ((LAVA_OUTPUT, 1), (LAVA_ALL, len(THRESHOLDS))):
            seconds, total = lava_peer(program, spikes, recorded)
            if total != int(expected.values["lif_2"].sum()):
                raise SystemExit(f"{name} counts {total} output spikes")
            times.setdefault(name, []).extend(seconds)
        with executables["lava"].start(STEPS) as session:
            timed(times, "lava (fused), started worker, spikes of all layers", lambda: session.run(spikes), LAVA_CALLS)
        for name in ("lava", "lava-stock"):
            timed(times, f"{name}, `run`: start of Lava, spikes of all layers", partial(executables[name].run, spikes))
    totals = {
        "ours and Lava": int(expected.values["lif_2"].sum()),
        "snnTorch, reset to zero": zero(),
        "snnTorch, default": default(),
        "norse": norse(),
    }
    return times, totals, np.array([expected.values[f"lif_{i}"].mean() for i in range(len(THRESHOLDS))])


def main() -> None:
    """Measure and write the table."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    program = network(rng)
    spikes = (rng.random((STEPS, SIZES[0])) < 0.1).astype(np.int64)
    times, totals, rates = measure(program, spikes)
    best = {name: min(seconds) for name, seconds in times.items()}
    lines = ["# Speed of a LIF network (measured)", "", "Written by `python benchmarks/lif_speed.py` in one run:"]
    where = f"torch on one thread, Lava's Processes on {os.cpu_count()} cores"
    lines += [
        (
            f"512-1024-1024-256, 64 steps, batch 1, {where}, input 10 %, spike rates "
            f"{', '.join(f'{rate:.1%}' for rate in rates)}."
        )
    ]
    lines += [
        (
            "Best time of each; larger is faster. Start-up is left out where it is not named. snnTorch and norse keep "
            "the output spikes only."
        ),
        "",
    ]
    lines += ["| what | times snnTorch | times Lava |", "|---|---|---|"]
    lines += [
        f"| {name} | {best[SNNTORCH] / second:.3g} | {best[LAVA_ALL] / second:.3g} |" for name, second in best.items()
    ]
    lines += ["", "Output spikes: " + ", ".join(f"{name} {total}" for name, total in totals.items()) + "."]
    lines += NOTES
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


NOTES = [
    (
        "Ours and Lava's are equal spike for spike: the 12-bit decay is rounded toward zero. The other peers compute "
        "in float32."
    ),
    "",
    "## Two resets",
    "",
    (
        "snnTorch's default subtracts the threshold one step after the spike, when the potential has decayed: the "
        "spike costs the whole threshold."
    ),
    (
        "norse (`reset_subtract`), sinabs and SpikingJelly subtract it at once, and the rest decays: the spike costs "
        "beta times the threshold."
    ),
    (
        "So on the same weights snnTorch's default fires less, by more in each layer; "
        "[reset_rules.md](reset_rules.md) counts it for beta 0.9."
    ),
    "What the conversions mean: `snntorch` modules keep the rule of the module, the late subtraction included",
    (
        "([docs/snntorch_networks.md](../docs/snntorch_networks.md)); a NIR `LIF`, `IF` or `CubaLIF` node resets to "
        "zero in the step of the spike,"
    ),
    "as Loihi does, and so do the neurons of this table but the default snnTorch ones.",
]


if __name__ == "__main__":
    main()
