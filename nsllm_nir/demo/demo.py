"""The main job: a trained model on every backend, spike for spike, and the page that shows it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nsllm_nir import exporters
from nsllm_nir.errors import InputError, NsllmNirError
from nsllm_nir.language_model.checkpoints import load_model, shipped_checkpoint
from nsllm_nir.lowering.lower import lower
from nsllm_nir.program import Program
from nsllm_nir.program.reference import one_hot
from nsllm_nir.program.trace import compare
from nsllm_nir.templates import render
from nsllm_nir.verification.generate import Generation, continuation
from nsllm_nir.verification.inputs import decode, encode, held_out
from nsllm_nir.verification.verify import BackendResult, Report, synaptic_operations, verify

if TYPE_CHECKING:
    from nsllm_nir.language_model.modeling import NSLLMForCausalLM

PROMPT = "The with statement is used"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Demo:
    """All results. constraints: rows of the Loihi 2 report; size: what the model takes, in parameters and bytes."""

    report: Report
    prompt: str
    generations: tuple[Generation, ...]
    constraints: tuple[dict[str, Any], ...]
    cores: int
    size: dict[str, int]

    @property
    def same_text(self) -> bool:
        """True only if every engine ran and wrote the same tokens."""
        return not any(g.error for g in self.generations) and len({g.tokens for g in self.generations}) == 1

    @property
    def passed(self) -> bool:
        """True only if every cell was equal and every engine wrote the same text."""
        return self.report.exact and self.same_text

    def to_json(self) -> dict[str, Any]:
        """Plain data of the whole run."""
        from nsllm_nir.report.tables import audit_totals

        program = self.report.program
        return {
            "exact": self.report.exact,
            "same_text": self.same_text,
            "verification": self.report.to_json(),
            "prompt": self.prompt,
            "generation": {
                g.engine: {"text": g.text, "tokens": g.tokens, "seconds": round(g.seconds, 3), "error": g.error}
                for g in self.generations
            },
            "size": self.size,
            "operations_per_token_bound": audit_totals(program),
            "synaptic_operations_per_token": {
                "tier": "simulated",
                **synaptic_operations(program, self.report.reference),
            },
            "loihi2_constraints": {"estimated_cores": self.cores, "rows": self.constraints},
        }


def compared() -> list[str]:
    """The registered backends, which are compared with the reference."""
    return [name for name in exporters.names() if name != "reference"]


def generators() -> list[str]:
    """The backends that continue the prompt: all that can and are fast enough for a demonstration."""
    found = {name: exporters.load(name).about for name in exporters.names()}
    return [name for name, about in found.items() if about.generates and not about.slow]


def run_demo(out: Path, checkpoint: Path | None, tokens: int, new_tokens: int, progress: Progress) -> Demo:
    """Export, verify on every backend, generate on every engine; writes model.nir and the report to ``out``.

    Args:
        out: folder, made if it is not there.
        checkpoint: folder or hub name of a model; None: the one that comes with the package.
        tokens: length of the held-out text that every backend is compared on.
        new_tokens: how far every engine continues the prompt.
        progress: called with one line before each step.

    Raises:
        InputError: a number below 1, no such checkpoint, or a checkpoint that cannot be loaded.
    """
    from nsllm_nir.exporters import lava_constraints
    from nsllm_nir.language_model.nir_export import to_nir

    for name, count in (("tokens", tokens), ("new_tokens", new_tokens)):
        if count < 1:
            raise InputError(f"`{name}` must be at least 1, got {count}")
    source = shipped_checkpoint() if checkpoint is None else checkpoint
    progress("load the checkpoint and export it")
    model = load_model(source).freeze()
    out.mkdir(parents=True, exist_ok=True)
    path = out / "model.nir"
    to_nir(model, path)
    program = lower(path)
    text = held_out("pydoc", tokens)
    report = verify(program, text, compared(), progress=lambda name: progress(f"verify {name}"))
    progress("verify the trained model in memory")
    report = dataclasses.replace(report, results=(_in_memory(model, program, text, report), *report.results))
    prompt = encode(PROMPT)
    generations = _generate_everywhere(model, program, prompt, new_tokens, progress)
    progress("Loihi 2 constraints")
    rows = lava_constraints.constraints(program)
    size = _size(source, path, program)
    result = Demo(
        report,
        decode(prompt),
        generations,
        tuple(lava_constraints.as_rows(rows)),
        lava_constraints.estimated_cores(rows),
        size,
    )
    progress("write the report")
    _write(result, out)
    return result


def _in_memory(model: NSLLMForCausalLM, program: Program, tokens: NDArray[np.int64], report: Report) -> BackendResult:
    """The model that was exported, not the one read back from the file."""
    from nsllm_nir.exporters.snntorch import backend, trace_model

    start = time.perf_counter()
    trace = trace_model(model.set_binary_mode(), program, one_hot(tokens, program.inputs[0].size))
    model.set_binary_mode(False)
    return BackendResult(
        "model", backend.version(), time.perf_counter() - start, tuple(compare(report.reference, trace)), trace
    )


def _generate_everywhere(
    model: NSLLMForCausalLM, program: Program, prompt: NDArray[np.int64], new_tokens: int, progress: Progress
) -> tuple[Generation, ...]:
    progress("generate with torch")
    found = [_timed("torch", lambda: _hugging_face(model, prompt, new_tokens))]
    for name in generators():
        progress(f"generate with {name}")
        found.append(_timed(name, partial(continuation, name, program, prompt, new_tokens)))
    return tuple(found)


def _timed(engine: str, write: Callable[[], list[int]]) -> Generation:
    start = time.perf_counter()
    try:
        return Generation(engine, tuple(write()), time.perf_counter() - start)
    except NsllmNirError as error:
        return Generation(engine, (), time.perf_counter() - start, str(error))


def _hugging_face(model: NSLLMForCausalLM, prompt: NDArray[np.int64], new_tokens: int) -> list[int]:
    import torch

    ids = torch.from_numpy(prompt)[None]
    mask = torch.ones_like(ids)
    out: Any = model.generate(
        ids, attention_mask=mask, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False
    )
    tokens: list[int] = out[0, ids.shape[1] :].tolist()
    return tokens


def _size(checkpoint: Path, nir: Path, program: Program) -> dict[str, int]:
    from nsllm_nir.exporters.image import pack_image

    return {
        "parameters": program.parameters(),
        "checkpoint_bytes": sum(file.stat().st_size for file in checkpoint.glob("*.safetensors")),
        "NIR_file_bytes": nir.stat().st_size,
        "HLS_image_bytes": len(pack_image(program)),
    }


def _write(result: Demo, out: Path) -> None:
    from nsllm_nir.files import write_bytes, write_json
    from nsllm_nir.report import plots
    from nsllm_nir.report.tables import audit_totals, findings, rows, total_spikes

    report = result.report
    steps = len(next(iter(report.reference.values.values())))
    found = rows(report.program, report.reference, report.results)
    write_json(out / "report.json", result.to_json())
    context = {
        "demo": result,
        "report": report,
        "steps": steps,
        "rows": found,
        "total_spikes": total_spikes(report.program, report.reference),
        "total_work": sum(row.synaptic_operations or 0 for row in found),
        "findings": findings(report),
        "engines": {result.backend: exporters.load(result.backend).about.runs for result in report.results[1:]},
        "audit": audit_totals(report.program),
        "rasters": {
            name: plots.data_uri(plots.raster_figure(report, {name: nodes}))
            for name, nodes in plots.layers(report).items()
        },
        "spikes_picture": plots.data_uri(plots.spikes_figure(found, steps)),
        "differences_picture": plots.data_uri(plots.differences_figure(found)),
    }
    template = Path(plots.__file__).parent / "templates" / "demo.html"
    write_bytes(out / "report.html", render(template, context).encode())
