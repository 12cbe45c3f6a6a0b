"""Train a small spiking language model, export it to NIR, and compare three backends spike for spike.

python examples/train_export_verify.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from nsllm_nir import NSLLMConfig, NSLLMForCausalLM, to_nir, verify
from nsllm_nir.language_model.corpus import PYDOC, corpus
from nsllm_nir.language_model.training import TrainingPlan, train
from nsllm_nir.verification.inputs import held_out

torch.manual_seed(0)
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    model = NSLLMForCausalLM(
        NSLLMConfig(hidden_size=32, num_hidden_layers=2, levels=[2, 4])
    )  # D timesteps per token, by layer
    plan = TrainingPlan(steps=60, batch_size=4, context=64, warmup_steps=10)
    metrics = train(model, corpus(PYDOC), folder / "run", plan, progress=False)
    print(f"held-out loss after {plan.steps} steps: {metrics['eval_loss']:.3f} nats per byte")

    to_nir(model.eval(), folder / "model.nir")  # standard NIR nodes: any nir.read opens it
    report = verify(folder / "model.nir", held_out(PYDOC, 32), ["snntorch", "lava", "hls"])
    print(report)
    raise SystemExit(0 if report.exact else 1)
