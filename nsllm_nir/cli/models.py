"""Commands about checkpoints: train, quantize, export. They need torch, and import it when they run."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from nsllm_nir.cli.options import Checkpoint, Json, TimeStep, given
from nsllm_nir.errors import InputError, LossyConversionError
from nsllm_nir.graph import DT
from nsllm_nir.graph.time_step import at_time_step, same_step
from nsllm_nir.report.terminal import show


def _levels(text: str | None) -> int | list[int] | None:
    """``4``, or one number per layer: ``4,4,8``."""
    try:
        numbers = [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise InputError(f"--levels takes one number, or one per layer separated by commas, got {text!r}") from None
    return numbers if len(numbers) > 1 else numbers[0] if numbers else None


def train(
    text: Annotated[
        str | None, typer.Argument(help="UTF-8 text file, or 'pydoc': the language reference that comes with Python.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for checkpoints, log (trainer_state.json) and the final model.")
    ] = Path("checkpoint"),
    dataset: Annotated[
        str | None, typer.Option(help="Hugging Face data set (name or folder) with a 'text' column, instead of TEXT.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows per step.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens per window.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    save_steps: Annotated[int | None, typer.Option(help="Steps between checkpoints and evaluations.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and windows.")] = 0,
    hidden_size: Annotated[int | None, typer.Option(help="Neurons per layer.")] = None,
    layers: Annotated[int | None, typer.Option(help="Number of layers.")] = None,
    levels: Annotated[
        str | None, typer.Option(help="D, timesteps per token: one number, or one per layer (4,4,8).")
    ] = None,
    final_levels: Annotated[int | None, typer.Option(help="D of the neurons before the output head.")] = None,
    weight_bits: Annotated[int | None, typer.Option(help="2 (ternary), 4 or 8.")] = None,
    coding: Annotated[str | None, typer.Option(help="binary or ternary.")] = None,
    state: Annotated[str | None, typer.Option(help="vector, or matrix (not exportable).")] = None,
    normalisation: Annotated[str | None, typer.Option(help="none, pooled, or rms (not exportable).")] = None,
    denominator: Annotated[bool | None, typer.Option(help="Normalise the attention read-out by the key count.")] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint in the output folder.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Torch threads.")] = None,
    json_file: Json = None,
) -> None:
    """Train a spiking language model on a text, quantization-aware.

    Options not given take the defaults of NSLLMConfig and TrainingPlan.
    """
    import torch

    from nsllm_nir.files import write_json
    from nsllm_nir.language_model.byte_tokens import dataset_text
    from nsllm_nir.language_model.configuration import NSLLMConfig
    from nsllm_nir.language_model.corpus import corpus
    from nsllm_nir.language_model.modeling import NSLLMForCausalLM
    from nsllm_nir.language_model.training import TrainingPlan
    from nsllm_nir.language_model.training import train as run_training
    from nsllm_nir.report.tables import facts_table

    if (text is None) == (dataset is None):
        raise InputError("give either TEXT (a file, or 'pydoc') or --dataset")
    size = given(
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        levels=_levels(levels),
        final_levels=final_levels,
        weight_bits=weight_bits,
    )
    config = NSLLMConfig(
        **size, **given(coding=coding, state=state, normalisation=normalisation, denominator=denominator)
    )
    if threads is not None and threads < 1:
        raise InputError(f"--threads must be at least 1, got {threads}")
    _check_out(out, config, resume)
    plan = TrainingPlan(
        **given(
            steps=steps, batch_size=batch_size, context=context, learning_rate=learning_rate, save_steps=save_steps
        ),
        seed=seed,
        gradient_checkpointing=gradient_checkpointing,
    )
    content = corpus(text) if text is not None else dataset_text(str(dataset))
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = NSLLMForCausalLM(config)
    choices = {
        **vars(plan),
        **{k: v for k, v in config.to_diff_dict().items() if k not in ("transformers_version", "architectures")},
    }
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
    changed = [
        f"{k} = {before[k]} there, {now[k]} here"
        for k in now
        if k in before and before[k] != now[k] and k not in ("dtype", "architectures")
    ]
    if changed:
        raise InputError(f"--resume: the options describe another model than {saved[-1].parent}: {'; '.join(changed)}")


def quantize(
    checkpoint: Annotated[
        Path, typer.Argument(help="Checkpoint folder or hub name, or a float .nir file.", metavar="MODEL")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the quantized model, or the integer .nir file.")],
    dt: TimeStep = 1e-4,
    json_file: Json = None,
) -> None:
    """Integers for floats.

    A checkpoint's latent weights become the int8 weights they stand for (the logits stay identical); a float NIR graph
    becomes an integer one in Loihi's number formats, written for steps of 1e-4 s.
    """
    if checkpoint.suffix == ".nir":
        _quantize_graph(checkpoint, out, dt, json_file)
        return
    if not same_step(dt, DT):
        raise InputError("--dt belongs to a .nir file; a checkpoint has no time constants in seconds")
    import torch

    from nsllm_nir.files import write_json
    from nsllm_nir.language_model.byte_tokens import byte_tokenizer
    from nsllm_nir.language_model.checkpoints import load_model
    from nsllm_nir.report.tables import facts_table
    from nsllm_nir.verification.inputs import held_out

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
        raise LossyConversionError(
            f"the quantized model in {out} differs from {checkpoint} by up to {(before - after).abs().max():g}; do "
            f"not use it"
        )
    facts = {
        "bytes_before": bytes_before,
        "bytes_after": _tensor_bytes(model),
        "tokens_compared": tokens.numel(),
        "differing_logits": 0,
        "model": str(out),
    }
    show(facts_table("Quantized", facts))
    if json_file:
        write_json(json_file, facts)


def _quantize_graph(path: Path, out: Path, dt: float, json_file: Path | None) -> None:
    from nsllm_nir.files import write_json
    from nsllm_nir.graph import write
    from nsllm_nir.lowering.lower import lower
    from nsllm_nir.quantization.quantize import compare_quantization
    from nsllm_nir.quantization.quantize import quantize as quantize_graph
    from nsllm_nir.report.tables import quantization_tables
    from nsllm_nir.verification.inputs import random_spikes
    from nsllm_nir.verification.prepare import quantization_json

    graph = at_time_step(path, dt)
    integer, summary = quantize_graph(graph)
    spikes = random_spikes(lower(integer), 0.1, 64, seed=0)
    error = None if summary.unchanged else compare_quantization(graph, integer, spikes)
    write(out, integer)
    show(str(summary), *quantization_tables(summary, error))
    if error:
        show(
            "Measured on random spikes of rate 0.1; `nsllm-nir verify` of the float graph measures it on inputs of "
            "your own."
        )
    if json_file:
        write_json(json_file, quantization_json(summary, error))


def _tensor_bytes(model: Any) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Argument(help="NIR file to write.", metavar="OUT.nir")],
    profile: Annotated[
        str, typer.Option(help="structured (compact), or portable (stock readers run it; small models only).")
    ] = "structured",
    json_file: Json = None,
) -> None:
    """Write a checkpoint as a NIR file."""
    from nsllm_nir.files import write_json
    from nsllm_nir.language_model.checkpoints import load_model
    from nsllm_nir.language_model.nir_export import to_nir
    from nsllm_nir.lowering.lower import lower
    from nsllm_nir.portable.profile import to_portable
    from nsllm_nir.report.tables import audit_table, audit_totals, facts_table

    if profile not in ("structured", "portable"):
        raise InputError(f"--profile must be structured or portable, got {profile!r}")
    with tempfile.TemporaryDirectory() as folder:  # the portable profile is made of the program of the structured one
        structured = out if profile == "structured" else Path(folder) / "model.nir"
        to_nir(load_model(checkpoint), structured)
        program = lower(structured)
        if profile == "portable":
            to_portable(program, out)
        facts = {
            "file": str(out),
            "bytes": out.stat().st_size,
            "operations": len(program.ops),
            "parameters": program.parameters(),
        }
        show(facts_table(f"Exported, {profile} profile", facts), audit_table(program))
    if json_file:
        write_json(json_file, {**facts, "operations_per_step_bound": audit_totals(program)})
