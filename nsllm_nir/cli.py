"""The command line. Commands import what they need when they run, so that `--help` and `doctor` work without torch."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import InputError, LossyConversionError, NsllmNirError
from .terminal import Steps, show

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .program import Program

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Spiking language models from snnTorch to NIR, Lava and HLS, spike for spike.",
)
TORCH_PACKAGES = ("torch", "transformers", "snntorch", "tokenizers", "safetensors", "accelerate", "datasets")

Model = Annotated[Path, typer.Argument(help="NIR file.", metavar="MODEL.nir")]
Checkpoint = Annotated[Path, typer.Argument(help="Folder that train, quantize or save_pretrained wrote, or a name on the Hugging Face hub.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result to this JSON file.")]
Prompt = Annotated[str | None, typer.Option(help="Read this text (byte-level models).")]
TokensFile = Annotated[
    Path | None, typer.Option(help="Read token ids from a text file (separated by white space) or .npy; a 2-D .npy holds spikes (steps, neurons).")
]
TextFile = Annotated[str | None, typer.Option(help="Read the held-out tenth of this text file, or of 'pydoc' (the default input).")]
Tokens = Annotated[int, typer.Option(help="How many tokens of the text to read, or how many random steps.")]
Random = Annotated[float | None, typer.Option(help="Read random spikes of this rate instead (any graph).")]
Seed = Annotated[int, typer.Option(help="Seed of --random.")]
Backends = Annotated[list[str] | None, typer.Option("--backend", help="Backend name; may be given several times.")]
AllNodes = Annotated[bool, typer.Option("--all-nodes", help="One line per node instead of one per block.")]


def main() -> None:
    """Entry point: an error of input, tool or file is one message and exit status 2."""
    try:
        app()
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in TORCH_PACKAGES:
            raise
        _stop(f"this command needs the package {error.name!r}; install it with: pip install 'nsllm-nir[torch]'")
    except (NsllmNirError, OSError) as error:
        _stop(str(error))


def _stop(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _levels(text: str | None) -> int | list[int] | None:
    """``4``, or one number per layer: ``4,4,8``."""
    try:
        numbers = [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise InputError(f"--levels takes one number, or one per layer separated by commas, got {text!r}") from None
    return numbers if len(numbers) > 1 else numbers[0] if numbers else None


def _load(
    model: Path, prompt: str | None, tokens_file: Path | None, text: str | None, tokens: int, random: float | None, seed: int
) -> tuple[Program, NDArray[Any]]:
    """Program and input spikes (steps, neurons) of a command."""
    from .inputs import choose
    from .lowering import lower
    from .verification import token_spikes

    program = lower(model)
    chosen = choose(program, prompt=prompt, tokens_file=tokens_file, text=text, tokens=tokens, random=random, seed=seed)
    return program, token_spikes(program, chosen) if chosen.ndim == 1 else chosen


@app.command()
def train(
    text: Annotated[str | None, typer.Argument(help="UTF-8 text file, or 'pydoc': the language reference that comes with Python.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, log (trainer_state.json) and the final model.")] = Path("checkpoint"),
    dataset: Annotated[str | None, typer.Option(help="Hugging Face data set (name or folder) with a 'text' column, instead of TEXT.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows per step.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens per window.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    save_steps: Annotated[int | None, typer.Option(help="Steps between checkpoints and evaluations.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and windows.")] = 0,
    hidden_size: Annotated[int | None, typer.Option(help="Neurons per layer.")] = None,
    layers: Annotated[int | None, typer.Option(help="Number of layers.")] = None,
    levels: Annotated[str | None, typer.Option(help="D, timesteps per token: one number, or one per layer (4,4,8).")] = None,
    final_levels: Annotated[int | None, typer.Option(help="D of the neurons before the output head.")] = None,
    weight_bits: Annotated[int | None, typer.Option(help="2 (ternary), 4 or 8.")] = None,
    coding: Annotated[str | None, typer.Option(help="binary or ternary.")] = None,
    state: Annotated[str | None, typer.Option(help="vector, or matrix (not exportable).")] = None,
    normalisation: Annotated[str | None, typer.Option(help="none, pooled, or rms (not exportable).")] = None,
    denominator: Annotated[bool | None, typer.Option(help="Normalise the attention read-out by the key count.")] = None,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint in the output folder.")] = False,
    threads: Annotated[int | None, typer.Option(help="Torch threads.")] = None,
    json_file: Json = None,
) -> None:
    """Train a spiking language model on a text, quantization-aware; options not given take the defaults of NSLLMConfig and TrainingPlan."""
    import torch

    from .configuration import NSLLMConfig
    from .corpus import corpus
    from .model import NSLLMForCausalLM
    from .report import facts_table, write_json
    from .text import dataset_text
    from .training import TrainingPlan
    from .training import train as run_training

    if (text is None) == (dataset is None):
        raise InputError("give either TEXT (a file, or 'pydoc') or --dataset")
    size = _given(hidden_size=hidden_size, num_hidden_layers=layers, levels=_levels(levels), final_levels=final_levels, weight_bits=weight_bits)
    config = NSLLMConfig(**size, **_given(coding=coding, state=state, normalisation=normalisation, denominator=denominator))
    _check_out(out, config, resume)
    plan = TrainingPlan(
        **_given(steps=steps, batch_size=batch_size, context=context, learning_rate=learning_rate, save_steps=save_steps),
        seed=seed,
        gradient_checkpointing=gradient_checkpointing,
    )
    content = corpus(text) if text is not None else dataset_text(str(dataset))
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = NSLLMForCausalLM(config)
    choices = {**vars(plan), **{k: v for k, v in config.to_diff_dict().items() if k not in ("transformers_version", "architectures")}}
    show(facts_table("Training", choices))
    start = time.perf_counter()
    metrics = run_training(model, content, out, plan, resume=resume)
    facts = {
        "held_out_loss_in_nats_per_token": round(metrics["eval_loss"], 4),
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": plan.steps,
        "seconds": round(time.perf_counter() - start, 1),
        "model": str(out),
        "log": str(out / "trainer_state.json"),
    }
    show(facts_table("Trained", facts))
    if json_file:
        write_json(json_file, {**facts, "command": f"nsllm-nir {shlex.join(sys.argv[1:])}", "choices": choices})


def _check_out(out: Path, config: Any, resume: bool) -> None:
    """A run neither overwrites nor silently continues another one."""
    saved = sorted(out.glob("checkpoint-*/config.json"), key=lambda path: int(path.parent.name.split("-")[1]))
    if not resume:
        if out.exists() and any(out.iterdir()):
            raise InputError(f"{out} is not empty; continue its run with --resume, or give another --out")
        return
    if not saved:
        raise InputError(f"--resume: {out} holds no checkpoint; leave --resume out to start")
    before, now = type(config).from_pretrained(saved[-1].parent).to_dict(), config.to_dict()
    changed = [f"{k} = {before[k]} there, {now[k]} here" for k in now if k in before and before[k] != now[k] and k not in ("dtype", "architectures")]
    if changed:
        raise InputError(f"--resume: the options describe another model than {saved[-1].parent}: {'; '.join(changed)}")


@app.command()
def quantize(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder or hub name, or a float .nir file.", metavar="MODEL")],
    out: Annotated[Path, typer.Option(help="Folder for the quantized model, or the integer .nir file.")],
    json_file: Json = None,
) -> None:
    """Integers for floats: a checkpoint's latent weights become the int8 weights they stand for (the logits stay identical);
    a float NIR graph becomes an integer one in Loihi's number formats."""
    if checkpoint.suffix == ".nir":
        _quantize_graph(checkpoint, out, json_file)
        return
    import torch

    from .demo import load_model
    from .inputs import held_out
    from .report import facts_table, write_json
    from .text import byte_tokenizer

    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; give another --out")
    model = load_model(checkpoint)
    tokens = torch.from_numpy(held_out("pydoc", 256) % model.config.vocab_size)[None]
    bytes_before = _tensor_bytes(model)
    with torch.no_grad():
        before = model(tokens).logits
        model.freeze().save_pretrained(out)
        byte_tokenizer().save_pretrained(out)
        after = load_model(out)(tokens).logits
    if not torch.equal(before, after):
        raise LossyConversionError(f"the quantized model in {out} differs from {checkpoint} by up to {(before - after).abs().max():g}; do not use it")
    facts = {"bytes_before": bytes_before, "bytes_after": _tensor_bytes(model), "tokens_compared": tokens.numel(), "differing_logits": 0, "model": str(out)}
    show(facts_table("Quantized", facts))
    if json_file:
        write_json(json_file, facts)


def _quantize_graph(path: Path, out: Path, json_file: Path | None) -> None:
    from .graph import write
    from .graph_quantization import compare_quantization
    from .graph_quantization import quantize as quantize_graph
    from .inputs import random_spikes
    from .lowering import lower
    from .report import write_json

    integer, done = quantize_graph(path)
    spikes = random_spikes(lower(integer), 0.1, 64, seed=0)
    error = compare_quantization(path, integer, spikes)
    write(out, integer)
    show(str(done), "on 64 steps of random spikes, rate 0.1:", str(error))
    if json_file:
        write_json(json_file, {**done.to_json(), "quantization_error": error.to_json()})


def _tensor_bytes(model: Any) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


@app.command()
def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Argument(help="NIR file to write.", metavar="OUT.nir")],
    profile: Annotated[str, typer.Option(help="structured (compact), or portable (stock readers run it; small models only).")] = "structured",
    json_file: Json = None,
) -> None:
    """Write a checkpoint as a NIR file."""
    from .demo import load_model
    from .lowering import lower
    from .nir_export import to_nir
    from .portable import to_portable
    from .report import audit_table, audit_totals, facts_table, write_json

    if profile not in ("structured", "portable"):
        raise InputError(f"--profile must be structured or portable, got {profile!r}")
    with tempfile.TemporaryDirectory() as folder:  # the portable profile is made of the program of the structured one
        structured = out if profile == "structured" else Path(folder) / "model.nir"
        to_nir(load_model(checkpoint), structured)
        program = lower(structured)
        if profile == "portable":
            to_portable(program, out)
        facts = {"file": str(out), "bytes": out.stat().st_size, "operations": len(program.ops), "parameters": program.parameters()}
        show(facts_table(f"Exported, {profile} profile", facts), audit_table(program))
    if json_file:
        write_json(json_file, {**facts, "operations_per_step_bound": audit_totals(program)})


@app.command()
def run(
    model: Model,
    backend: Annotated[str, typer.Option(help="Backend name; `nsllm-nir doctor` lists them.")],
    prompt: Prompt = None,
    tokens_file: TokensFile = None,
    text: TextFile = None,
    tokens: Tokens = 64,
    random: Random = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Write the trace as .npz: one array (steps, neurons) per node.")] = None,
    all_nodes: AllNodes = False,
    json_file: Json = None,
) -> None:
    """Run a model on one backend: spikes and synaptic operations."""
    from . import exporters
    from .report import block_of, rows, spikes_table, write_arrays, write_json

    program, spikes = _load(model, prompt, tokens_file, text, tokens, random, seed)
    with Steps() as progress:
        progress(f"run {backend}")
        found = exporters.load(backend)
        trace = found.compile(program).run(spikes)
    show(spikes_table(program, trace, all_nodes=all_nodes))
    if out:
        write_arrays(out, trace.values)
    if json_file:
        nodes = {row.name: {"block": block_of(row.name), **vars(row)} for row in rows(program, trace, all_nodes=True)}
        write_json(json_file, {"backend": backend, "version": found.version(), "steps": len(spikes), "tier": "simulated", "nodes": nodes})


@app.command()
def verify(
    model: Model,
    backend: Backends = None,
    prompt: Prompt = None,
    tokens_file: TokensFile = None,
    text: TextFile = None,
    tokens: Tokens = 64,
    random: Random = None,
    seed: Seed = 0,
    all_nodes: AllNodes = False,
    picture: Annotated[Path | None, typer.Option(help="Write the spike raster, differences marked, to this PNG file.")] = None,
    constraints: Annotated[Path | None, typer.Option(help="Print the Loihi 2 constraint report and write it to this JSON file.")] = None,
    json_file: Json = None,
) -> None:
    """Compare backends (default: all) with the integer reference at every node, step and neuron; exit status 0 only if all are exact."""
    from . import exporters
    from .report import backends_table, differences_table, findings, write_json
    from .verification import verify as run_verification

    names = backend or [name for name in exporters.names() if name != "reference"]
    for name in names:
        exporters.load(name)
    program, spikes = _load(model, prompt, tokens_file, text, tokens, random, seed)
    with Steps() as progress:
        report = run_verification(program, spikes, names, progress=progress)
    show(differences_table(report, all_nodes=all_nodes), backends_table(report), *findings(report))
    if constraints:
        _constraints(program, constraints)
    if picture:
        from .plots import picture as draw

        draw(report, picture)
    if json_file:
        write_json(json_file, report.to_json())
    raise typer.Exit(0 if report.exact else 1)


def _constraints(program: Program, path: Path) -> None:
    from .exporters import lava_constraints
    from .report import constraints_table, write_json

    rows = lava_constraints.as_rows(lava_constraints.constraints(program))
    cores = lava_constraints.estimated_cores(lava_constraints.constraints(program))
    show(constraints_table(rows, cores))
    write_json(path, {"estimated_cores": cores, "rows": rows})


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    backend: Annotated[str, typer.Option(help="Backend name.")] = "hls",
    new_tokens: Annotated[int, typer.Option(help="Tokens to write.")] = 64,
) -> None:
    """Continue a text on a backend, greedily, from integer logits."""
    from .demo import continuation
    from .inputs import check_byte_level, decode, encode
    from .lowering import lower

    program = lower(model)
    check_byte_level(program)
    with Steps() as progress:
        progress(f"generate with {backend}")
        written = continuation(backend, program, encode(prompt), new_tokens)
    print(prompt + decode(written))  # as it is: `show` would drop control characters


@app.command()
def build(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the project; must not exist or be empty.")],
    target: Annotated[str, typer.Option(help="vitis: the spike engine as a Vitis HLS project.")] = "vitis",
    part: Annotated[str | None, typer.Option(help="FPGA part.")] = None,
    clock_ns: Annotated[float | None, typer.Option(help="Clock period in nanoseconds.")] = None,
    prompt: Prompt = None,
    tokens_file: TokensFile = None,
    text: TextFile = None,
    tokens: Tokens = 16,
    random: Random = None,
    seed: Seed = 0,
) -> None:
    """Write a hardware project with the model's program image and golden vectors; `make` in it checks them with g++."""
    from . import reference
    from .exporters.hls import build_vitis

    if target != "vitis":
        raise InputError(f"--target must be vitis, got {target!r}")
    program, spikes = _load(model, prompt, tokens_file, text, tokens, random, seed)
    project = build_vitis(program, spikes, reference.run(program, spikes), out, **_given(part=part, clock_ns=clock_ns))
    show(f"{project}: engine, image, golden vectors of {len(spikes)} steps. Check it with `make -C {project}`; README.txt there says how Vitis HLS takes it.")


@app.command()
def doctor(
    backend: Backends = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only look at versions, run nothing.")] = False,
    json_file: Json = None,
) -> None:
    """Say which backends and tools run here, and the command that installs what is missing; exit status 0 only if all backends run."""
    from rich.table import Table

    from . import exporters
    from .doctor import check_all
    from .report import write_json

    for name in backend or ():
        exporters.load(name)
    with Steps() as progress:
        checks = check_all(backend or exporters.names(), quick=quick, progress=progress)
    table = Table(title="Versions" if quick else "Each backend ran a tiny program and was compared with the reference")
    for column in ("name", "kind", "runs", "version"):
        table.add_column(column)
    for check in checks:
        table.add_row(check.name, check.kind, "[green]yes[/]" if check.runs else "[red]no[/]", check.version)
    show(table, *(f"{check.name}: {check.message}" for check in checks if check.message))
    if json_file:
        write_json(json_file, [vars(check) for check in checks])
    raise typer.Exit(0 if all(check.runs for check in checks if check.kind == "backend") else 1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.json and model.nir.")] = Path("out/demo"),
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint to use; default: the one that comes with the package.")] = None,
    tokens: Annotated[int, typer.Option(help="Held-out tokens to compare.")] = 64,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 32,
    json_file: Json = None,
) -> None:
    """Run a trained model on every backend, compare every spike, generate the same text everywhere, and write the report page."""
    from .demo import run_demo
    from .report import audit_table, backends_table, constraints_table, differences_table, facts_table, findings, generations_table, spikes_table, write_json

    with Steps() as progress:
        result = run_demo(out, checkpoint, tokens, new_tokens, progress)
    report = result.report
    show(
        spikes_table(report.program, report.reference),
        differences_table(report),
        backends_table(report),
        *findings(report),
        generations_table(result.prompt, result.generations),
        facts_table("Size", result.size),
        audit_table(report.program),
        constraints_table(result.constraints, result.cores),
        "",
        f"every spike equal: {'yes' if report.exact else 'NO'}; same text from every engine: {'yes' if result.same_text else 'NO'}",
        f"report: {out / 'report.html'}",
    )
    if json_file:
        write_json(json_file, result.to_json())
    raise typer.Exit(0 if result.passed else 1)
