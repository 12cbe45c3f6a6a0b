"""Speed of a 512-1024-1024-256 LIF network at batch 1: our reference and backends beside snnTorch and norse.

    python benchmarks/lif_speed.py        # writes benchmarks/lif_speed.md

64 steps, 10 % input, thresholds that give about 10 % in the hidden layers. Candidates take turns in one process, one
torch thread; the best wall time of each counts, and the ratios to snnTorch are what the table is for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsllm_nir import exporters
from nsllm_nir.program import Input, Lif, Linear, Op, Program
from nsllm_nir.trace import compare

SIZES, STEPS, ROUNDS = (512, 1024, 1024, 256), 64, 7
VOLTAGE_DECAY = 410  # of 4096: beta = 0.9
THRESHOLDS = (610, 1078, 961)


def network(rng: np.random.Generator) -> Program:
    """Int8 weights and Loihi LIF neurons."""
    ops: list[Op] = [Input("input", SIZES[0])]
    for i, (inputs, outputs, threshold) in enumerate(zip(SIZES, SIZES[1:], THRESHOLDS, strict=False)):
        weight = rng.integers(-127, 128, (outputs, inputs)).astype(np.int8)
        zeros = np.zeros(outputs, np.int32)
        ops.append(Linear(f"linear_{i}", ops[-1].name, weight, zeros, zeros.astype(np.uint8)))
        ops.append(Lif(f"lif_{i}", ops[-1].name, np.full(outputs, 4096), np.full(outputs, VOLTAGE_DECAY), np.full(outputs, threshold), zeros))
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


def snntorch_neuron(threshold: int) -> Any:
    import snntorch

    leaky = snntorch.Leaky(beta=1 - VOLTAGE_DECAY / 4096, threshold=float(threshold), reset_mechanism="zero", reset_delay=False)
    return lambda x, mem: leaky(x, torch.zeros_like(x) if mem is None else mem)


def norse_neuron(threshold: int) -> Any:
    from norse.torch import LIFBoxCell, LIFBoxParameters

    # dt tau_mem_inv = 0.1001 with unit gain: norse multiplies the input by it, so the threshold is scaled as well.
    rate = VOLTAGE_DECAY / 4096
    return LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.tensor(rate / 0.001), v_th=torch.tensor(threshold * rate)), dt=0.001)


def main() -> None:
    """Measure and write the table."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    program = network(rng)
    spikes = (rng.random((STEPS, SIZES[0])) < 0.1).astype(np.int64)
    executables = {name: exporters.load(name).compile(program) for name in ("reference", "lava", "lava-stock", "hls")}
    expected = executables["reference"].run(spikes)
    for name, executable in executables.items():
        if any(node.differences for node in compare(expected, executable.run(spikes))):
            raise SystemExit(f"{name} differs from the reference")
    rows: dict[str, Callable[[], Any]] = {
        "snnTorch 1.0.0 Leaky (reset to zero)": torch_peer(program, spikes, snntorch_neuron),
        "norse 1.1.0 LIFBoxCell": torch_peer(program, spikes, norse_neuron),
        **{f"{name}, run: all spikes traced, start-up included": (lambda e=e: e.run(spikes)) for name, e in executables.items()},
    }
    seconds: dict[str, list[float]] = {}
    with executables["hls"].open() as session:
        rows["hls, session: steps of a loaded engine"] = lambda: [session.step(row) for row in spikes]
        for _ in range(ROUNDS):
            for name, run in rows.items():
                start = time.perf_counter()
                run()
                seconds.setdefault(name, []).append(time.perf_counter() - start)
    base = min(seconds["snnTorch 1.0.0 Leaky (reset to zero)"])
    rates = ", ".join(f"{expected.values[f'lif_{i}'].mean():.1%}" for i in range(3))
    lines = ["# Speed of a LIF network (measured)", "", "Written by `python benchmarks/lif_speed.py`: 512-1024-1024-256, 64 steps, batch 1, one thread,"]
    lines += [f"input 10 %, spike rates {rates}. Best of {ROUNDS}; larger is faster. Our rows are spike for spike equal.", ""]
    lines += ["| what | speed relative to snnTorch |", "|---|---|"]
    lines += [f"| {name} | {base / min(times):.1f} |" for name, times in seconds.items()]
    peers = {"snnTorch": rows["snnTorch 1.0.0 Leaky (reset to zero)"](), "norse": rows["norse 1.1.0 LIFBoxCell"]()}
    ours = int(expected.values["lif_2"].sum())
    lines += ["", f"Output spikes: ours {ours}, " + ", ".join(f"{name} {n}" for name, n in peers.items()) + "."]
    lines += ["The peers compute in float32; ours rounds the 12-bit decay toward zero at 1/64 of a unit, as Loihi does."]
    lines += ["snnTorch runs with `reset_mechanism='zero', reset_delay=False`, the only setting with Loihi's meaning. Its default subtracts the"]
    lines += ["threshold one step later, after the decay; that fires less often than an immediate reset and no NIR node can say it."]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
