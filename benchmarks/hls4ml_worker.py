"""The part of hls4ml_peer.py that runs in the environment of hls4ml and da4ml.

    PEER/bin/python benchmarks/hls4ml_worker.py hls4ml LAYER.npz FOLDER default|inferred
    PEER/bin/python benchmarks/hls4ml_worker.py da4ml LAYER.npz FOLDER CUTOFF

LAYER.npz: weight (outputs, inputs) and spikes (tokens, inputs), integers; spikes in [0, 3]. FOLDER gets the project.
The last line printed is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np


def hls4ml(weight: Any, spikes: Any, folder: str, precision: str) -> dict[str, Any]:
    """One Dense of a PyTorch model: default precision everywhere, or with the widths of sums inferred by hls4ml."""
    import torch
    from hls4ml.converters import convert_from_pytorch_model
    from hls4ml.utils import config_from_pytorch_model

    outputs, inputs = weight.shape
    linear = torch.nn.Linear(inputs, outputs, bias=False)
    model = torch.nn.Sequential(linear)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weight, dtype=torch.float32))
    config = config_from_pytorch_model(
        model, (inputs,), granularity="model" if precision == "default" else "name", backend="Vitis"
    )
    started = time.perf_counter()
    converted = convert_from_pytorch_model(
        model, backend="Vitis", hls_config=config, output_dir=folder, io_type="io_parallel"
    )
    converted.compile()
    seconds = time.perf_counter() - started
    result = converted.predict(spikes.astype(np.float32)).reshape(len(spikes), outputs)
    types = ", ".join(
        f"{layer.name}: {v.type.precision}" for layer in converted.get_layers() for v in layer.variables.values()
    )
    return {"wrong": int((result != spikes @ weight.T).sum()), "seconds": seconds, "types": types}


def packed(words: Any, widths: list[int]) -> int:
    """The first word lowest."""
    total = at = 0
    for word, width in zip(words, widths, strict=True):
        total |= (int(word) & ((1 << width) - 1)) << at
        at += width
    return total


def da4ml(weight: Any, spikes: Any, folder: str, cutoff: str) -> dict[str, Any]:
    """Verilog of the layer: a pipeline with at most ``cutoff`` adders from register to register."""
    from da4ml.codegen import VerilogModel
    from da4ml.trace import HWConfig, comb_trace, to_pipeline
    from da4ml.trace.fixed_variable_array import FixedVariableArray

    started, inputs = time.perf_counter(), weight.shape[1]
    zeros = np.zeros(inputs, np.int64)
    unsigned = FixedVariableArray.from_kif(
        zeros, zeros + 2, zeros, hwconf=HWConfig(1, -1, -1)
    )  # two integer bits: counts of 0 to 3
    circuit = comb_trace(unsigned, unsigned @ weight.T.astype(np.float64))
    pipeline = to_pipeline(circuit, int(cutoff), verbose=False)
    VerilogModel(pipeline, "dense", folder).write()
    seconds = time.perf_counter() - started
    result = circuit.predict(spikes.astype(np.float64)).reshape(len(spikes), len(weight))
    # The words of the Verilog, one after the other from the lowest bit: two bits per input; outputs have their own
    # widths.
    widths = [int(sign) + int(whole) + int(fraction) for sign, whole, fraction in zip(*circuit.out_kifs, strict=True)]
    with open(f"{folder}/vectors.hex", "w", encoding="utf-8") as file:
        for row in spikes:
            file.write(f"{packed(weight @ row, widths) << 2 * inputs | packed(row, [2] * inputs):x}\n")
    # A register before the first stage and after each.
    return {
        "wrong": int((result != spikes @ weight.T).sum()),
        "seconds": seconds,
        "latency": len(pipeline.solutions) + 1,
        "estimated_lut": int(circuit.cost),
        "output_bits": sum(widths),
    }


if __name__ == "__main__":
    with np.load(sys.argv[2]) as layer:
        answer = {"hls4ml": hls4ml, "da4ml": da4ml}[sys.argv[1]](
            layer["weight"].astype(np.int64), layer["spikes"].astype(np.int64), *sys.argv[3:]
        )
    print(json.dumps(answer))
