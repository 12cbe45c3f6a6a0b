"""What a Lava user writes for a network of LIF layers: one Dense and one LIF Process per layer, in Lava's own runtime.

    python benchmarks/lava_peer.py NETWORK.npz ROUNDS RECORDED        # prints JSON

NETWORK.npz: spikes (steps, neurons), weight_0, weight_1, ... (outputs, inputs) int8, thresholds (layers,),
voltage_decay.
RECORDED: layers, counted from the output, whose spikes are recorded.
Prints the seconds of the start and of each run of all steps, and the output spikes of the first run. A process of its
own, as Lava's runtime forks, and waits for ever after an error.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from nsllm_nir.exporters.lava_worker import compat


def build(data: Any, weights: list[Any], recorded: int) -> tuple[Any, Any]:
    """The source, and the sink of the output layer."""
    from lava.proc.dense.process import Dense
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Source
    from lava.proc.lif.process import LIF

    source = last = Source(data=np.ascontiguousarray(data["spikes"].T, dtype=np.int32))
    for i, (weight, threshold) in enumerate(zip(weights, data["thresholds"], strict=True)):
        # Lava drops the lowest bit of weights of both signs: they are doubled, and the sum is halved.
        dense = Dense(weights=2 * weight.astype(np.int32), weight_exp=-1, num_weight_bits=8)
        lif = LIF(shape=(len(weight),), du=4095, dv=int(data["voltage_decay"]), vth=int(threshold))
        last.s_out.connect(dense.s_in)
        dense.a_out.connect(lif.a_in)
        if len(weights) - i <= recorded:
            sink = Sink(shape=lif.s_out.shape, buffer=len(data["spikes"]) + len(weights))
            lif.s_out.connect(sink.a_in)
        last = lif
    return source, sink


def main(path: str, rounds: int, recorded: int) -> None:
    """Run the network of a file."""
    compat.enable()
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    with np.load(path) as file:
        data = dict(file)
    weights = [data[f"weight_{i}"] for i in range(len(data["thresholds"]))]
    steps, latency = len(data["spikes"]), len(weights)  # a Dense adds one step
    source, sink = build(data, weights, recorded)
    config, seconds = Loihi2SimCfg(select_tag="fixed_pt"), []

    def run(count: int) -> None:
        start = time.perf_counter()
        source.run(condition=RunSteps(num_steps=count), run_cfg=config)
        seconds.append(time.perf_counter() - start)

    run(steps + latency)
    spikes = int(sink.data.get()[:, latency:].sum())
    for _ in range(rounds):
        run(steps)
    source.stop()
    print(json.dumps({"start": seconds[0], "runs": seconds[1:], "spikes": spikes}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
