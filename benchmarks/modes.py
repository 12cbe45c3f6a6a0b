"""Count mode against unrolled binary mode, and the cost of a generated token against context length.

    python benchmarks/modes.py        # writes benchmarks/modes.md

Times are process CPU times on one thread, alternating between the candidates; each memory figure is a process
of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from memory import peak_mib

LEVELS = 4
SIZE: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": 5, "levels": LEVELS}


def build(binary: bool) -> Any:
    """The shipped size, all neurons with D = 4."""
    import torch

    from nsllm_nir import NSLLMConfig, NSLLMForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return NSLLMForCausalLM(NSLLMConfig(**SIZE, final_levels=LEVELS)).set_binary_mode(binary)


def training_step(model: Any) -> float:
    """CPU seconds of one forward and backward pass over 16 windows of 128 tokens."""
    import torch

    x = torch.randint(0, 256, (16, 128), generator=torch.Generator().manual_seed(0))
    start = time.process_time()
    model(x, labels=x).loss.backward()
    model.zero_grad()
    return time.process_time() - start


def memory(mode: str) -> float:
    """Peak memory in MiB that a training step adds to the loaded model."""
    model = build(mode == "binary")
    before = peak_mib()
    training_step(model)
    return peak_mib() - before


def token_milliseconds(model: Any, context: int) -> float:
    """CPU time of one generated token after ``context`` tokens, median of 20."""
    import torch

    x = torch.randint(0, 256, (1, context), generator=torch.Generator().manual_seed(0))
    times = []
    with torch.no_grad():
        cache = model(x, use_cache=True).past_key_values
        for _ in range(20):
            start = time.process_time()
            model(x[:, :1], past_key_values=cache, use_cache=True)
            times.append(time.process_time() - start)
    return 1e3 * statistics.median(times)


def main() -> None:
    """Measure and write the table."""
    count, binary = build(False), build(True)
    pairs = [(training_step(count), training_step(binary)) for _ in range(6)][1:]
    ratio = statistics.median(b / a for a, b in pairs)
    used = {}
    for mode in ("count", "binary"):
        used[mode] = float(
            json.loads(
                subprocess.run([sys.executable, __file__, mode], capture_output=True, text=True, check=True).stdout
            )
        )
    count.freeze().eval()
    contexts = [16, 256, 4096]
    tokens = {n: [token_milliseconds(count, n) for _ in range(3)] for n in contexts}
    base = statistics.median(tokens[contexts[0]])
    lines = ["# Count mode against binary mode (measured)", ""]
    lines += ["Written by `python benchmarks/modes.py`: shipped size, D = 4 everywhere, 16 windows of 128 tokens.", ""]
    lines += ["| training step | count mode | unrolled binary mode | ratio |", "|---|---|---|---|"]
    lines += [
        (
            f"| CPU time, s | {statistics.median(a for a, _ in pairs):.2f} "
            f"| {statistics.median(b for _, b in pairs):.2f} | {ratio:.2f} |"
        )
    ]
    lines += [
        (
            f"| peak memory added, MiB | {used['count']:.0f} | {used['binary']:.0f} "
            f"| {used['binary'] / used['count']:.2f} |"
        ),
        "",
    ]
    lines += ["| context, tokens | time per generated token, relative to the shortest context |", "|---|---|"]
    lines += [f"| {n} | {statistics.median(t) / base:.2f} |" for n, t in tokens.items()]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(memory(sys.argv[1])))
    else:
        main()
