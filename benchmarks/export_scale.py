"""Time and memory of NIR export at 100 M and 1.5 B parameters beside a raw safetensors write of the same weights.

    python benchmarks/export_scale.py            # writes benchmarks/export_scale.md; needs 8 GiB of memory

Random ternary weights; each size runs in a process of its own. The two writes alternate; the median ratio counts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from memory import peak_mib

FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None  # files in memory, so that no disk is measured
SIZES = {
    "100 M": {"hidden_size": 2048, "num_hidden_layers": 2, "vocab_size": 256, "repeats": 9},
    "1.5 B": {
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "intermediate_size": 9216,
        "vocab_size": 50277,
        "repeats": 3,
    },
}


def measure(name: str) -> dict[str, float]:
    """Export one size; memory is measured at the first export, before safetensors runs."""
    import torch
    from safetensors.torch import save_file

    from nsllm_nir import NSLLMConfig, NSLLMForCausalLM, lower, to_nir
    from nsllm_nir.graph import read
    from nsllm_nir.language_model.spiking_linear import SpikingLinear

    torch.set_num_threads(1)
    size: dict[str, Any] = dict(SIZES[name])
    repeats = size.pop("repeats")
    torch.manual_seed(0)
    model = NSLLMForCausalLM(NSLLMConfig(**size, weight_bits=2, frozen=True))
    for module in model.modules():
        if isinstance(module, SpikingLinear):
            module.weight.random_(-1, 2)
    weights = {k: v for k, v in model.state_dict().items() if k.endswith("weight")}
    largest = max(v.numel() for v in weights.values()) / 2**20
    seconds: dict[str, list[float]] = {"nir": [], "safetensors": []}
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        nir_path, raw_path = Path(folder) / "m.nir", Path(folder) / "m.safetensors"
        before = peak_mib()
        to_nir(model, nir_path)
        export_peak = peak_mib() - before
        writers = {
            "nir": (nir_path, lambda: to_nir(model, nir_path)),
            "safetensors": (raw_path, lambda: save_file(weights, raw_path)),
        }
        for _ in range(repeats):
            for kind, (path, write) in writers.items():
                path.unlink(missing_ok=True)  # both write new files: overwriting in place reuses pages of the cache
                start = time.process_time()  # one thread, no disk: unlike wall time, this is not the neighbours' load
                write()
                seconds[kind].append(time.process_time() - start)
        result = {
            "parameters": sum(v.numel() for v in weights.values()),
            "nir_bytes": nir_path.stat().st_size,
            "safetensors_bytes": raw_path.stat().st_size,
            "ratio": statistics.median(a / b for a, b in zip(seconds["nir"], seconds["safetensors"], strict=True)),
            "nir_seconds": statistics.median(seconds["nir"]),
            "safetensors_seconds": statistics.median(seconds["safetensors"]),
            "export_peak_mib": export_peak,
            "largest_layer_mib": largest,
        }
        start = time.perf_counter()
        graph = read(nir_path)
        result["open_seconds"] = time.perf_counter() - start
        start = time.perf_counter()
        lower(graph, node="layer_001.attention")
        result["lower_one_block_seconds"] = time.perf_counter() - start
        code = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from memory import peak_mib; from "
            "nsllm_nir import lower; a = peak_mib(); "
        )
        code += f"lower({str(nir_path)!r}, node='layer_001.attention'); print(peak_mib() - a)"
        result["read_peak_mib"] = float(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        )
    return result


def main() -> None:
    """Measure every size and write the table."""
    rows = []
    for name in SIZES:
        done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
        rows.append((name, json.loads(done.stdout)))
        print(name, rows[-1][1], flush=True)
    lines = ["# Export at scale (measured)", "", "Written by `python benchmarks/export_scale.py`."]
    lines += ["Ternary weights stored as int8; both writers write new files to a folder in memory.", ""]
    lines += [
        (
            "| size | parameters | bytes, NIR / safetensors | CPU time of the write, NIR / safetensors "
            "| peak memory (twice the largest layer) |"
        )
    ]
    lines += ["|---|---|---|---|---|"]
    for n, r in rows:
        memory = f"{r['export_peak_mib']:.0f} MiB ({2 * r['largest_layer_mib']:.0f} MiB)"
        lines.append(
            f"| {n} | {r['parameters']:,} | {r['nir_bytes'] / r['safetensors_bytes']:.3f} | {r['ratio']:.2f} "
            f"| {memory} |"
        )
    lines += [
        "",
        "| size | open the file + lower one attention block: peak memory | weights of that block |",
        "|---|---|---|",
    ]
    lines += [
        f"| {n} | {r['read_peak_mib']:.0f} MiB | {4 * SIZES[n]['hidden_size'] ** 2 / 2**20:.0f} MiB |" for n, r in rows
    ]
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
