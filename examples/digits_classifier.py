"""A spiking classifier of handwritten digits: trained with snnTorch, written as NIR, run on Lava and HLS.

python examples/digits_classifier.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import snntorch
import torch
from comparison import compare
from sklearn.datasets import load_digits
from snntorch import spikegen

from nsllm_nir import to_nir

STEPS, SILENCE, BATCH, EPOCHS = 20, 52, 128, 20


class Classifier(torch.nn.Module):
    """Two layers of snnTorch's default neuron: reset by subtraction, one step late."""

    def __init__(self) -> None:
        super().__init__()
        self.weights1 = torch.nn.Linear(64, 48, bias=False)
        self.neurons1 = snntorch.Leaky(beta=0.8)
        self.weights2 = torch.nn.Linear(48, 10, bias=False)
        self.neurons2 = snntorch.Leaky(beta=0.8)

    def forward(self, spikes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Spikes (steps, samples, 64) to those of both layers, (steps, samples, neurons)."""
        potential1, potential2 = self.neurons1.init_leaky(), self.neurons2.init_leaky()
        hidden, out = [], []
        for step in spikes:
            spikes1, potential1 = self.neurons1(self.weights1(step), potential1)
            spikes2, potential2 = self.neurons2(self.weights2(spikes1), potential2)
            hidden.append(spikes1)
            out.append(spikes2)
        return torch.stack(hidden), torch.stack(out)


def encoded(images: torch.Tensor) -> torch.Tensor:
    """Random spikes at the rate of the pixels, then silence: (steps, samples, 64)."""
    return torch.cat([spikegen.rate(images, num_steps=STEPS), torch.zeros(SILENCE, len(images), 64)])


def by_sample(spikes: torch.Tensor) -> np.ndarray:
    """(steps, samples, neurons) to (samples, steps, neurons)."""
    return spikes.transpose(0, 1).numpy().astype(np.int64)


torch.manual_seed(0)
torch.set_num_threads(1)  # the layers are too small to share
digits = load_digits()
held = np.arange(len(digits.target)) % 5 == 0
pixels, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)

net = Classifier()
optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
for _ in range(EPOCHS):
    for batch in torch.randperm(int((~held).sum())).split(BATCH):
        _, out = net(spikegen.rate(pixels[~held][batch], num_steps=STEPS))  # a pixel is a spike rate
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(out.sum(0), labels[~held][batch]).backward()
        optimizer.step()

test = encoded(pixels[held])
with torch.no_grad():
    hidden, out = net(test)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "digits.nir"
    to_nir(net, path, input_shape=(64,))
    exact = compare(
        path,
        by_sample(test),
        digits.target[held],
        calibration=by_sample(encoded(pixels[~held][:40])),
        framework="snnTorch",
        rasters={"neurons1": by_sample(hidden), "neurons2": by_sample(out)},
        backends=["lava", "hls"],
    )
raise SystemExit(0 if exact else 1)
