"""Training through `transformers.Trainer`: the same loop for spiking models and for baselines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments, default_data_collator
from transformers.trainer_utils import get_last_checkpoint

from nsllm_nir.errors import InputError
from nsllm_nir.language_model.byte_tokens import RandomWindows, Windows, byte_tokenizer
from nsllm_nir.language_model.corpus import split


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast. context: tokens per window; learning_rate: peak of a cosine with linear warm-up.

    Raises:
        InputError: a number out of its range.
    """

    steps: int = 1200
    batch_size: int = 16
    context: int = 128
    learning_rate: float = 5e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    seed: int = 0
    save_steps: int = 200
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "context": 2, "warmup_steps": 0, "save_steps": 1, "seed": 0}
        for name, low in least.items():
            if (found := getattr(self, name)) < low:
                raise InputError(f"`{name}` must be at least {low}, got {found}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"`learning_rate` must be a positive number, got {self.learning_rate:g}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InputError(f"`weight_decay` must be a number of at least 0, got {self.weight_decay:g}")


class _Trainer(Trainer):
    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weight decay pulls on matrices only: thresholds, biases and decay shifts are no magnitudes."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]


def train(
    model: PreTrainedModel, text: str, out: Path, plan: TrainingPlan, *, resume: bool = False, progress: bool = True
) -> dict[str, float]:
    """Train on all but the held-out tail of ``text``; checkpoints, final weights and tokenizer go to ``out``.

    Returns the metrics of the last evaluation (``eval_loss`` in nats per token).

    Raises:
        InputError: nothing to resume from, or a text shorter than a window.
    """
    checkpoint = None
    if resume and out.is_dir():
        checkpoint = get_last_checkpoint(str(out))  # type: ignore[no-untyped-call] # of transformers
    if resume and checkpoint is None:
        raise InputError(f"{out} holds no checkpoint to resume from; start without resuming")
    if plan.gradient_checkpointing:
        model.gradient_checkpointing_enable()  # type: ignore[no-untyped-call] # of transformers
    tokenizer = byte_tokenizer()
    tokens = torch.tensor(tokenizer(text, verbose=False).input_ids).numpy()
    training, held_out = split(tokens)
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=plan.steps,
        per_device_train_batch_size=plan.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=plan.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=plan.warmup_steps,
        weight_decay=plan.weight_decay,
        adam_beta2=0.99,
        max_grad_norm=1.0,
        seed=plan.seed,
        save_steps=plan.save_steps,
        save_total_limit=2,
        eval_strategy="steps",
        eval_steps=plan.save_steps,
        logging_steps=50,
        disable_tqdm=not progress,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=RandomWindows(training, plan.context, plan.steps * plan.batch_size, plan.seed),
        eval_dataset=Windows(held_out, plan.context),
        processing_class=tokenizer,
        data_collator=default_data_collator,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    metrics = trainer.evaluate()
    trainer.save_model(str(out))
    trainer.save_state()
    return metrics


@torch.no_grad()
def evaluate(model: PreTrainedModel, text: str, context: int) -> float:
    """Mean loss in nats per token over the first windows of the held-out tail of ``text``."""
    windows = Windows(split(torch.tensor(byte_tokenizer()(text, verbose=False).input_ids).numpy())[1], context)
    model.eval()  # type: ignore[no-untyped-call] # of transformers
    batches = torch.split(windows.windows, 32)
    losses: list[float] = [model(input_ids=batch, labels=batch).loss.item() * len(batch) for batch in batches]
    return sum(losses) / len(windows)
