"""The picture of the README: the flow, beside the spikes of one layer of the shipped model in a run on every backend.

python docs/picture.py    # writes docs/picture.png
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nsllm_nir import to_nir, verify
from nsllm_nir.demo.demo import BACKENDS, PROMPT
from nsllm_nir.files import write_bytes
from nsllm_nir.language_model.checkpoints import load_model, shipped_checkpoint
from nsllm_nir.report import plots
from nsllm_nir.verification.inputs import encode

LAYER = "layer_002"
FLOW = (
    ("a snnTorch network · a spiking language model", "or the .nir file of another tool"),
    ("model.nir", "one file of standard nodes: any NIR reader opens it"),
    ("integer program", "every number an integer of known width"),
    ("snnTorch · Lava · C++ engine · SystemVerilog engine", "the same spikes, compared one by one"),
)


def flow(axes: Axes) -> None:
    """Boxes from top to bottom, an arrow between each two."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(FLOW), 0)
    for i, (name, remark) in enumerate(FLOW):
        box = {"boxstyle": "round,pad=0.7", "facecolor": "white", "edgecolor": plots.INK}
        text = f"{name}\n{remark}"
        axes.text(0.5, i + 0.5, text, ha="center", va="center", fontsize=8.5, linespacing=1.7, bbox=box)
        if i + 1 < len(FLOW):
            arrow = {"arrowstyle": "-|>", "color": plots.INK, "linewidth": 1.2}
            axes.annotate("", (0.5, i + 1.19), (0.5, i + 0.81), arrowprops=arrow)


with tempfile.TemporaryDirectory() as folder:
    path = to_nir(load_model(shipped_checkpoint()).freeze(), Path(folder) / "model.nir")
    report = verify(path, encode(PROMPT), BACKENDS)
    if not report.exact:
        raise SystemExit(str(report))

figure = Figure(figsize=(11, 5.4), layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=(2, 3))
flow(left)
plots.raster(right, report, plots.layers(report)[LAYER])
right.set_xticks([i + 0.5 for i in range(len(PROMPT))], [c if c != " " else "␣" for c in PROMPT], fontsize=8)
right.set_xlabel("text that the model reads, one token per character", fontsize=8)
right.set_title(
    f"One layer of the model while it reads: a dot is a spike (orange: a negative one)\n"
    f"the same on {len(BACKENDS)} backends: {', '.join(BACKENDS)}",
    fontsize=9,
)
write_bytes(Path(__file__).with_name("picture.png"), plots.png(figure))
