"""CPU time of `verify` on a float graph of four layers, of an older checkout and of this one, in one run.

    python benchmarks/verify_speed.py OLDER_CHECKOUT        # writes benchmarks/verify_speed.md

Each checkout runs in processes of its own, in turns; the table has the median and the range of their CPU time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROUNDS = 7
WORK = """
import sys, time
import nir, numpy as np
import nsllm_nir
from nsllm_nir import verify

rng, dt, sizes = np.random.default_rng(0), 1e-4, (256, 512, 512, 512, 10)
layers = []
for inputs, outputs in zip(sizes, sizes[1:]):
    layers += [
        nir.Linear(rng.normal(0.02, 0.3, (outputs, inputs)).astype(np.float32)),
        nir.LIF(*(np.full(outputs, value) for value in (8 * dt, 8.0, 0.0, 1.0, 0.0))),
    ]
graph = nir.NIRGraph.from_list(nir.Input(np.array([sizes[0]])), *layers)
spikes = (rng.random((STEPS, sizes[0])) < 0.2).astype(np.int64)
start = time.process_time()
report = verify(graph, spikes, ["reference"])
spent = time.process_time() - start
assert report.exact and report.quantization_error is not None
print(spent, report.quantization_error.differences)
"""


def seconds(checkout: Path, steps: int) -> tuple[float, int]:
    """CPU seconds of one `verify`, and the differing cells that it counted for quantization."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WORK.replace("STEPS", str(steps))],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    spent, differences = done.stdout.split()
    return float(spent), int(differences)


def main() -> None:
    checkouts = {"before": Path(sys.argv[1]).resolve(), "after": HERE.parent.resolve()}
    lines = [
        "# Time of `verify` on a float graph",
        "",
        "Written by `python benchmarks/verify_speed.py OLDER_CHECKOUT`: layers of 512, 512, 512 and 10 neurons on 256",
        f"inputs, backend `reference`, {ROUNDS} processes of each checkout in turns, one thread. CPU seconds, median "
        "(range).",
        "Tier: measured.",
        "",
        "| steps | before | after | ratio |",
        "|---|---|---|---|",
    ]
    for steps in (10, 100):
        runs: dict[str, list[float]] = {name: [] for name in checkouts}
        for _ in range(ROUNDS):
            found = {name: seconds(checkout, steps) for name, checkout in checkouts.items()}
            assert len({differences for _, differences in found.values()}) == 1, "the checkouts count other spikes"
            for name, (spent, _) in found.items():
                runs[name].append(spent)
        middle = {name: statistics.median(values) for name, values in runs.items()}
        cells = [f"{middle[name]:.3f} ({min(values):.3f} to {max(values):.3f})" for name, values in runs.items()]
        lines.append(f"| {steps} | {cells[0]} | {cells[1]} | {middle['before'] / middle['after']:.2f} |")
        print(lines[-1], flush=True)
    (HERE / "verify_speed.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
