"""A network trained in norse, written to a NIR file by norse itself, and run from that file on Lava and HLS.

python examples/norse_file.py    # leaves the file, and the spikes of one test sample per digit, in out/norse
"""

from __future__ import annotations

from pathlib import Path

import nir
import norse.torch as norse
import numpy as np
import torch
from comparison import compare
from norse.torch.functional.lif_box import LIFBoxParameters
from sklearn.datasets import load_digits

from nsllm_nir import at_time_step

DT = 1e-3  # seconds per step, norse's default
STEPS, SILENCE, BATCH, EPOCHS = 16, 36, 96, 25


def neurons(size: int) -> norse.LIFBoxCell:
    """Membranes of 3.3 ms; one value per neuron, because nir cannot write numbers without an axis."""
    constants = LIFBoxParameters(
        tau_mem_inv=torch.full((size,), 300.0),
        v_leak=torch.zeros(size),
        v_th=torch.ones(size),
        alpha=torch.tensor(10.0),
    )
    return norse.LIFBoxCell(constants, dt=DT)


def build() -> norse.SequentialState:
    """Weights that fire: a spike moves the membrane by dt / tau of its weight."""
    net = norse.SequentialState(
        torch.nn.Linear(64, 48, bias=False), neurons(48), torch.nn.Linear(48, 10, bias=False), neurons(10)
    )
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.mul_(3.5)
    return net


def run(net: norse.SequentialState, spikes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Spikes of both layers, (samples, steps, neurons)."""
    hidden: list[torch.Tensor] = []
    handle = net[1].register_forward_hook(lambda module, given, result: hidden.append(result[0]))
    state, out = None, []
    for step in spikes.unbind(1):
        spiked, state = net(step, state)
        out.append(spiked)
    handle.remove()
    return torch.stack(hidden, 1), torch.stack(out, 1)


def encoded(images: torch.Tensor, silence: int = SILENCE) -> torch.Tensor:
    """Random spikes at the rate of the pixels, then silence: (samples, steps, 64)."""
    spikes = torch.bernoulli(images[:, None].expand(-1, STEPS, -1))
    return torch.cat([spikes, torch.zeros(len(images), silence, 64)], 1)


torch.manual_seed(0)
torch.set_num_threads(1)  # the layers are too small to share
digits = load_digits()
held = np.arange(len(digits.target)) % 5 == 0
pixels, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
train_pixels, train_labels = pixels[~held], labels[~held]

net = build()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
for _ in range(EPOCHS):
    for batch in torch.randperm(len(train_labels)).split(BATCH):
        out = run(net, encoded(train_pixels[batch], silence=0))[1]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(out.sum(1), train_labels[batch]).backward()
        optimizer.step()

test = encoded(pixels[held])
with torch.no_grad():
    hidden, out = run(net, test)
folder = Path("out/norse")
folder.mkdir(parents=True, exist_ok=True)
# norse 1.1.0 multiplies time constants by the dt of this call: with dt=1 they stay seconds.
nir.write(folder / "digits_norse.nir", norse.to_nir(net, torch.zeros(64), dt=1))
one_of_each = np.unique(digits.target[held], return_index=True)[1]
np.savez_compressed(folder / "digits_spikes.npz", spikes=test[one_of_each].numpy().astype(np.uint8).reshape(-1, 64))
exact = compare(
    at_time_step(folder / "digits_norse.nir", DT),
    test.numpy().astype(np.int64),
    digits.target[held],
    calibration=encoded(train_pixels[:40]).numpy().astype(np.int64),
    framework="norse",
    rasters={"1": hidden.numpy().astype(bool), "3": out.numpy().astype(bool)},  # the names that norse gives
    backends=["lava", "hls"],
)
raise SystemExit(0 if exact else 1)
