"""Validation loss of quantized, binary-spike models against a float softmax transformer, with ablations.

    python benchmarks/quality.py headline --jobs 2     # shipped size, learning rate tuned for each row
    python benchmarks/quality.py ablation --jobs 2     # 0.35 M parameters, two seeds
    python benchmarks/quality.py table                 # benchmarks/quality.md from the recorded runs

Each run is recorded in benchmarks/results/quality/ and not repeated; delete a file to run it again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import typer

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "quality"
app = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True)
class Run:
    """One training run. model: `float` or keyword arguments of NSLLMConfig; plan: of TrainingPlan."""

    group: str
    row: str
    model: dict[str, Any] | str
    size: dict[str, Any]
    plan: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        slug = "".join(c if c.isalnum() else "-" for c in self.row)
        return RESULTS / f"{self.group}_{slug}_lr{self.plan['learning_rate']:g}_seed{self.plan['seed']}.json"


SHIPPED = {"hidden_size": 128, "num_hidden_layers": 5}
SMALL = {"hidden_size": 80, "num_hidden_layers": 4}


def headline() -> list[Run]:
    """Float transformer and three weight settings, each with three learning rates."""
    rows: list[tuple[str, dict[str, Any] | str]] = [
        ("float softmax transformer", "float"),
        ("spiking, int8", {"weight_bits": 8}),
        ("spiking, int4", {"weight_bits": 4}),
        ("spiking, ternary", {"weight_bits": 2}),
    ]
    rates = {"float": (2e-3, 4e-3, 8e-3), "spiking": (5e-3, 2.5e-3, 1e-2)}
    return [
        Run("headline", row, model, SHIPPED, {"steps": 1200, "learning_rate": rate, "seed": 0})
        for i in range(3)
        for row, model in rows
        for rate in (rates["float" if model == "float" else "spiking"][i],)
    ]


def ablation() -> list[Run]:
    """One change at a time from the default, at 0.35 M parameters."""
    rows: list[tuple[str, dict[str, Any]]] = [
        ("default (int8, ternary coding, D = 4, vector state)", {}),
        ("without the denominator b", {"denominator": False}),
        ("binary (unsigned) coding", {"coding": "binary"}),
        ("D = 1", {"levels": 1, "final_levels": 1}),
        ("D = 2", {"levels": 2, "final_levels": 2}),
        ("D = 8", {"levels": 8, "final_levels": 8}),
        ("matrix state", {"state": "matrix"}),
        ("int4 weights", {"weight_bits": 4}),
        ("ternary weights", {"weight_bits": 2}),
        ("pooled inhibition", {"normalisation": "pooled"}),
        ("RMSNorm put back", {"normalisation": "rms"}),
    ]
    plan = {"steps": 600, "learning_rate": 7e-3}
    return [Run("ablation", row, model, SMALL, {**plan, "seed": seed}) for seed in (0, 1) for row, model in rows]


def float_transformer(size: dict[str, Any], parameters: int) -> Any:
    """Llama-style decoder (RMSNorm, SwiGLU, rotary positions, softmax) with ``parameters`` within 5 %."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def build(intermediate: int) -> Any:
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=256,
                num_attention_heads=4,
                max_position_embeddings=512,
                intermediate_size=intermediate,
                **size,
            )
        )

    def count(model: Any) -> int:
        return sum(p.numel() for p in model.parameters())

    d, layers = size["hidden_size"], size["num_hidden_layers"]
    base = count(build(8))
    return build(8 + round((parameters - base) / (3 * d * layers)))


def firing(model: Any, text: str) -> dict[str, float]:
    """Mean spikes per neuron and token of each neuron population over held-out text, and their mean."""
    import torch

    from nsllm_nir.language_model.byte_tokens import Windows, byte_tokenizer
    from nsllm_nir.language_model.corpus import split
    from nsllm_nir.language_model.neuron import SpikeCount

    windows = Windows(split(torch.tensor(byte_tokenizer()(text, verbose=False).input_ids).numpy())[1], 128, 16)
    rates: dict[str, float] = {}
    spikes = neurons = 0.0
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, SpikeCount):

            def record(_module: Any, _inputs: Any, out: Any, name: str = name) -> None:
                nonlocal spikes, neurons
                per_token = out.abs().sum(0)
                rates[name] = per_token.mean().item()
                spikes += per_token.sum().item()
                neurons += per_token.numel()

            hooks.append(module.register_forward_hook(record))
    with torch.no_grad():
        model(windows.windows)
    for hook in hooks:
        hook.remove()
    return {"mean": spikes / neurons, **rates}


def execute(run: Run) -> dict[str, Any]:
    """Train, freeze to integers, evaluate in binary mode."""
    import time

    import torch

    from nsllm_nir.language_model.corpus import PYDOC, corpus
    from nsllm_nir.language_model.modeling import NSLLMConfig, NSLLMForCausalLM
    from nsllm_nir.language_model.training import TrainingPlan, evaluate, train

    torch.set_num_threads(1)
    torch.manual_seed(run.plan["seed"])
    text, plan = corpus(PYDOC), TrainingPlan(**run.plan, save_steps=10_000)
    spiking = NSLLMForCausalLM(NSLLMConfig(**run.size, **(run.model if isinstance(run.model, dict) else {})))
    parameters = sum(p.numel() for p in spiking.parameters())
    model: Any = spiking if isinstance(run.model, dict) else float_transformer(run.size, parameters)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        train(model, text, Path(folder), plan, progress=False)
    seconds = time.process_time() - start
    result: dict[str, Any] = {
        **asdict(run),
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": seconds,
    }
    if model is spiking:
        spiking.freeze()
        result["count_mode_loss"] = evaluate(spiking, text, plan.context)
        result["firing"] = firing(spiking, text)
        spiking.set_binary_mode()
    return {**result, "loss": evaluate(model, text, plan.context)}


def launch(runs: list[Run], jobs: int) -> None:
    """Run what is not recorded yet, each in a process of its own."""
    RESULTS.mkdir(parents=True, exist_ok=True)

    def one(run: Run) -> None:
        if run.path.exists():
            return
        done = subprocess.run(
            [sys.executable, __file__, "one", json.dumps(asdict(run))], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{run.path.name} failed:\n{done.stderr[-2000:]}")
        result = json.loads(done.stdout.splitlines()[-1])
        run.path.write_text(json.dumps(result, indent=1) + "\n")
        typer.echo(f"{run.path.name}: {result['loss']:.4f} nats")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, runs))


@app.command("headline")
def run_headline(jobs: int = 2) -> None:
    """Train the headline rows."""
    launch(headline(), jobs)


@app.command("ablation")
def run_ablation(jobs: int = 2) -> None:
    """Train the ablation rows."""
    launch(ablation(), jobs)


@app.command(hidden=True)
def one(run: str) -> None:
    """Train one run, given as JSON; the last line printed is its result."""
    typer.echo(json.dumps(execute(Run(**json.loads(run)))))


def _load(group: str) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for run in headline() if group == "headline" else ablation():
        if run.path.exists():
            rows.setdefault(run.row, []).append(json.loads(run.path.read_text()))
    return rows


@app.command()
def table() -> None:
    """Write benchmarks/quality.md from the recorded runs."""
    head, small = _load("headline"), _load("ablation")
    best = {row: min(runs, key=lambda r: r["loss"]) for row, runs in head.items()}
    base = best["float softmax transformer"]["loss"]
    lines = [
        "# Quality (measured)",
        "",
        "Written by `python benchmarks/quality.py table`; nats per byte on the held-out tenth of `pydoc_data.topics`,",
    ]
    lines += ["integer weights, binary spikes. Commands in the head of `benchmarks/quality.py`.", ""]
    lines += [
        "| model | parameters | learning rate (of those tried) | loss | ratio to float | spikes per neuron and token |",
        "|---|---|---|---|---|---|",
    ]
    for row, run in best.items():
        tried = ", ".join(f"{r['plan']['learning_rate']:g}: {r['loss']:.3f}" for r in head[row])
        rate = f"{run['firing']['mean']:.3f}" if "firing" in run else ""
        lines.append(
            f"| {row} | {run['parameters']:,} | {run['plan']['learning_rate']:g} ({tried}) | {run['loss']:.4f} "
            f"| {run['loss'] / base:.3f} | {rate} |"
        )
    plan = head["float softmax transformer"][0]["plan"]
    lines += [
        "",
        (
            f"{plan['steps']} steps of 16 windows of 128 bytes. Weight bits concern the layers; embedding and head "
            "are int8."
        ),
        "",
        "## Ablations",
        "",
    ]
    lines += ["| change | loss, mean of seeds | per seed | spikes per neuron and token |", "|---|---|---|---|"]
    for row, runs in small.items():
        losses = [r["loss"] for r in runs]
        lines.append(
            f"| {row} | {sum(losses) / len(losses):.4f} | {', '.join(f'{x:.4f}' for x in losses)} "
            f"| {runs[0]['firing']['mean']:.3f} |"
        )
    if small:
        first = next(iter(small.values()))[0]
        default, *_ = (mean := {row: sum(r["loss"] for r in runs) / len(runs) for row, runs in small.items()}).values()
        change = {row: f"{loss / default:.3f} x" for row, loss in mean.items()}
        lines += [
            "",
            (
                "The defaults follow this table, except where a better row costs what hardware or exactness cannot "
                "give: D = 8"
            ),
        ]
        lines += [
            (
                f"({change['D = 8']} the default's loss) doubles the timesteps, RMSNorm "
                f"({change['RMSNorm put back']}) and the matrix state"
            )
        ]
        lines += [
            (
                f"({change['matrix state']}) cannot be exported. Without the denominator b the loss is "
                f"{change['without the denominator b']}, within the"
            )
        ]
        lines += ["spread of the seeds; b stays because it bounds the read-out whatever the decay."]
        lines += [
            "",
            (
                f"{first['parameters']:,} parameters (default row), {first['plan']['steps']} steps, learning rate "
                f"{first['plan']['learning_rate']:g}."
            ),
        ]
    (HERE / "quality.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    app()
