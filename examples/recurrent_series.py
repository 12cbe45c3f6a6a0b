"""Who speaks? A recurrent spiking network on a time series: trained with snnTorch, written as NIR, run on Lava and HLS.

    python examples/recurrent_series.py

The series are the Japanese Vowels of nine speakers (data/README.md): 12 cepstrum coefficients per frame, 7 to 29
frames. A frame is one step. Each coefficient has 8 input neurons; one fires where the coefficient is above its level,
an octile of the training set.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import snntorch
import torch
from comparison import compare
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nsllm_nir import to_nir

TRAIN, LONGEST, SILENCE, LEVELS, HIDDEN, SPEAKERS, BATCH, EPOCHS = 270, 29, 55, 8, 64, 9, 30, 20
QUIET = 3.0  # weight of the penalty on spikes in the silence, which recurrent neurons could go on with for ever
CELLS = 12 * LEVELS


class Classifier(torch.nn.Module):
    """Recurrent neurons with snnTorch's default reset, and one neuron per speaker."""

    def __init__(self) -> None:
        super().__init__()
        self.weights1 = torch.nn.Linear(CELLS, HIDDEN, bias=False)
        self.neurons1 = snntorch.RLeaky(beta=0.8, linear_features=HIDDEN)
        self.neurons1.recurrent.bias.requires_grad_(False).zero_()  # silence ends in rest
        self.weights2 = torch.nn.Linear(HIDDEN, SPEAKERS, bias=False)
        self.neurons2 = snntorch.Leaky(beta=0.8)

    def forward(self, spikes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Spikes (steps, samples, CELLS) to those of both layers, (steps, samples, neurons)."""
        spikes1, potential1 = self.neurons1.init_rleaky()
        potential2 = self.neurons2.init_leaky()
        hidden, out = [], []
        for step in spikes:
            spikes1, potential1 = self.neurons1(self.weights1(step), spikes1, potential1)
            spikes2, potential2 = self.neurons2(self.weights2(spikes1), potential2)
            hidden.append(spikes1)
            out.append(spikes2)
        return torch.stack(hidden), torch.stack(out)


def by_sample(spikes: torch.Tensor) -> np.ndarray:
    """(steps, samples, neurons) to (samples, steps, neurons)."""
    return spikes.transpose(0, 1).numpy().astype(np.int64)


torch.manual_seed(0)
torch.set_num_threads(1)  # the layers are too small to share
data = np.load(Path(__file__).parent / "data" / "japanese_vowels.npz")
series = np.split(data["frames"], np.cumsum(data["lengths"])[:-1])
speakers = data["speakers"].astype(np.int64) - 1
levels = np.quantile(np.concatenate(series[:TRAIN]), (np.arange(LEVELS) + 0.5) / LEVELS, axis=0)
spikes = torch.zeros(LONGEST + SILENCE, len(series), CELLS)
for i, frames in enumerate(series):
    spikes[: len(frames), i] = torch.from_numpy(
        (frames[:, None] > levels).reshape(len(frames), CELLS).astype(np.float32)
    )
silent = (
    torch.arange(LONGEST + 12)[:, None] >= torch.from_numpy(data["lengths"].astype(np.int64)) + 4
)  # (steps, samples)

net, labels = Classifier(), torch.from_numpy(speakers)
optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=3e-3)
for _ in range(EPOCHS):
    for batch in torch.randperm(TRAIN).split(BATCH):
        hidden, out = net(spikes[: len(silent), batch])
        loss = (
            torch.nn.functional.cross_entropy(out.sum(0), labels[batch])
            + QUIET * (hidden * silent[:, batch, None]).mean()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

means = np.array([frames.mean(0) for frames in series])
baseline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(means[:TRAIN], speakers[:TRAIN])
print(
    "baseline, logistic regression on the mean of each coefficient: "
    f"{100 * baseline.score(means[TRAIN:], speakers[TRAIN:]):.2f} %"
)

with torch.no_grad():
    hidden, out = net(spikes[:, TRAIN:])
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "vowels.nir"
    to_nir(net, path, input_shape=(CELLS,))
    exact = compare(
        path,
        by_sample(spikes[:, TRAIN:]),
        speakers[TRAIN:],
        calibration=by_sample(spikes[:, :TRAIN:9]),
        framework="snnTorch",
        rasters={"neurons1": by_sample(hidden), "neurons2": by_sample(out)},
        backends=["lava", "hls"],
    )
raise SystemExit(0 if exact else 1)
