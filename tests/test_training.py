"""Training through the Trainer: resuming changes nothing, losses fall, texts are checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from nsllm_nir import NSLLMForCausalLM
from nsllm_nir.errors import InputError
from nsllm_nir.language_model.byte_tokens import RandomWindows, Windows, byte_tokenizer
from nsllm_nir.language_model.checkpoints import load_model
from nsllm_nir.language_model.corpus import corpus, split
from nsllm_nir.language_model.training import TrainingPlan, evaluate, train

Model = Callable[..., NSLLMForCausalLM]
TEXT = "abcdefgh " * 60
PLAN = TrainingPlan(steps=3, batch_size=2, context=8, warmup_steps=1, save_steps=2)
SIZES = {"vocab_size": 256, "hidden_size": 8, "intermediate_size": 8}


def test_resuming_gives_the_weights_of_an_uninterrupted_run(tiny_model: Model, tmp_path: Path) -> None:
    whole = train(tiny_model(**SIZES), TEXT, tmp_path / "whole", PLAN, progress=False)
    assert math.isfinite(whole["eval_loss"])

    class Interrupted(Exception):
        pass

    broken = tiny_model(**SIZES)
    steps: list[int] = []

    def interrupt(*_: object) -> None:
        steps.extend([1] if broken.training else [])
        if len(steps) == 3:
            raise Interrupted

    broken.register_forward_pre_hook(interrupt)
    with pytest.raises(Interrupted):  # in the third step; the checkpoint is of the second
        train(broken, TEXT, tmp_path / "broken", PLAN, progress=False)
    checkpoints = sorted(path.name for path in (tmp_path / "broken").glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-2"]
    resumed = train(tiny_model(seed=9, **SIZES), TEXT, tmp_path / "broken", PLAN, resume=True, progress=False)
    assert resumed["eval_loss"] == whole["eval_loss"]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_training_lowers_the_loss_and_leaves_a_usable_folder(tiny_model: Model, tmp_path: Path) -> None:
    model = tiny_model(**SIZES)
    start = evaluate(model, TEXT, 8)
    metrics = train(model, TEXT, tmp_path, replace(PLAN, steps=40, batch_size=8, save_steps=40), progress=False)
    assert metrics["eval_loss"] < 0.8 * start
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert evaluate(loaded, TEXT, 8) == pytest.approx(metrics["eval_loss"], abs=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("aé").input_ids == list("aé".encode()) and tokenizer.decode(list("aé".encode())) == "aé"


def test_evaluate_is_the_mean_over_held_out_windows(tiny_model: Model) -> None:
    model = tiny_model(**SIZES)
    held_out = torch.tensor(list(TEXT.encode()))[int(len(TEXT) * 0.9) :]
    losses = []
    for window in held_out[: len(held_out) // 8 * 8].view(-1, 8):
        with torch.no_grad():
            scores = model(window[None]).logits[0]
        losses.append(torch.nn.functional.cross_entropy(scores[:-1], window[1:]))
    assert len(losses) == 6
    assert evaluate(model, TEXT, 8) == pytest.approx(float(torch.stack(losses).mean()), abs=1e-5)


def test_windows_never_touch_the_held_out_tail() -> None:
    tokens = np.arange(200)
    training, held_out = split(tokens)
    assert (len(training), len(held_out)) == (180, 20) and training[-1] + 1 == held_out[0]
    drawn = RandomWindows(training, 16, 300, seed=3)
    again = RandomWindows(training, 16, 300, seed=3)
    assert len(drawn) == 300 and max(int(drawn[i]["input_ids"][-1]) for i in range(300)) < 180
    assert all(torch.equal(drawn[i]["labels"], again[i]["input_ids"]) for i in range(300))
    assert (
        torch.stack([w["input_ids"] for w in (Windows(held_out, 8)[i] for i in range(2))]).tolist()
        == np.arange(180, 196).reshape(2, 8).tolist()
    )


def test_short_texts_are_refused() -> None:
    with pytest.raises(
        InputError,
        match=(
            r"^the text has 8 training tokens, a window needs more than 8; "
            r"give a longer text or a smaller --context$"
        ),
    ):
        RandomWindows(np.arange(8), 8, 1, 0)
    with pytest.raises(InputError, match=r"^the held-out text has 7 tokens, a window needs 8$"):
        Windows(np.arange(7), 8)


def test_corpora(tmp_path: Path) -> None:
    assert len(corpus("pydoc")) > 300_000
    path = tmp_path / "text.txt"
    with pytest.raises(InputError, match=r"^text '.*text.txt': no such file; give a UTF-8 text file, or 'pydoc'"):
        corpus(str(path))
    path.write_bytes(b"ab\xffc")
    with pytest.raises(InputError, match=r"^text '.*' is not UTF-8 \(byte 2\); convert it first$"):
        corpus(str(path))
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"^text '.*' is empty$"):
        corpus(str(path))
    path.write_text("hé\n", encoding="utf-8")
    assert corpus(str(path)) == "hé\n"


def test_tokenizer_ids_are_bytes() -> None:
    tokenizer, data = byte_tokenizer(), bytes(range(256)).decode("latin-1")
    assert len(tokenizer) == 256 and tokenizer(data).input_ids == list(data.encode())
    assert tokenizer.decode(list(data.encode())) == data


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "`steps` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"context": 1}, "`context` must be at least 2, got 1"),
        ({"save_steps": 0}, "`save_steps` must be at least 1, got 0"),
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be a positive number, got nan"),
        ({"learning_rate": -1.0}, "`learning_rate` must be a positive number, got -1"),
        ({"weight_decay": float("inf")}, "`weight_decay` must be a number of at least 0, got inf"),
    ],
)
def test_plans_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        TrainingPlan(**wrong)


def test_a_mistyped_folder_is_an_error_at_once(tmp_path: Path) -> None:
    """Nothing asks the hub: neither a bare name nor a folder beside others is OWNER/NAME."""
    for name in (Path("missing"), tmp_path / "missing"):
        with pytest.raises(InputError, match="there is no such folder"):
            load_model(name)
