"""The main job in small: train, save, load, export, verify, generate, from Python and from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from nsllm_nir import NSLLMConfig, NSLLMForCausalLM, exporters, from_nir, generate, lower, to_nir, verify
from nsllm_nir.cli.main import app
from nsllm_nir.language_model.training import TrainingPlan, train

TEXT = "one spike, two spikes, " * 40
PROMPT = list(b"one spike")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trained")
    model = NSLLMForCausalLM(NSLLMConfig(hidden_size=16, num_hidden_layers=1, levels=2, final_levels=3))
    train(model, TEXT, folder, TrainingPlan(steps=12, batch_size=4, context=16, warmup_steps=2), progress=False)
    return folder


def test_from_training_to_equal_spikes_and_equal_text(trained: Path, tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(trained)
    path = to_nir(model, tmp_path / "model.nir")
    report = verify(path, PROMPT, ["snntorch", "hls"])
    assert report.exact and len(report.results) == 2, str(report)
    text = model.generate(torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False)[0, len(PROMPT) :].tolist()
    networks: tuple[Any, ...] = (from_nir(path), model.freeze())
    for network in networks:
        again = network.generate(torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False)
        assert again[0, len(PROMPT) :].tolist() == text
    program = lower(path)
    for backend in ("reference", "snntorch", "hls"):
        with exporters.load(backend).compile(program).open() as session:
            assert generate(session, program, PROMPT, 12) == text


def test_the_command_line(trained: Path, tmp_path: Path) -> None:
    run, path = CliRunner(), tmp_path / "model.nir"
    for arguments in (
        ["export", str(trained), str(path)],
        ["verify", str(path), "--backend", "snntorch", "--backend", "hls", "--prompt", "two spikes"],
        ["generate", str(path), "--backend", "hls", "--prompt", "two", "--new-tokens", "4"],
    ):
        done = run.invoke(app, arguments)
        assert done.exit_code == 0, (done.output, done.exception)
