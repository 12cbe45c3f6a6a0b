"""Turn a job into a graph of Lava Processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lava.proc.graded.process import GradedVec
from lava.proc.io.source import RingBuffer
from lava.proc.lif.process import LIF, LIFReset
from lava.proc.prodneuron.process import ProdNeuron
from lava.proc.sparse.process import Sparse
from lava.utils.weightutils import SignMode
from scipy.sparse import csr_matrix

from nsllm_nir.exporters.lava_worker import job as jobs
from nsllm_nir.exporters.lava_worker.processes import FileSink, FileSource, FusedProgram

LIF_REGISTERS = ("du", "dv", "vth", "bias_mant", "bias_exp", "v")
DECAY = 4095  # full leak; the reset at every step makes the neuron memoryless in any case


def build(folder: Path, job: dict[str, Any], arrays: jobs.Arrays) -> Any:
    """The first Process of the graph that ``job`` describes; running it runs all of them."""
    return _fused(folder, job, arrays) if job["kind"] == "fused" else _stock(folder, job, arrays)


def _fused(folder: Path, job: dict[str, Any], arrays: jobs.Arrays) -> Any:
    program = jobs.program_from_data(job["program"], arrays)
    source = FileSource(path=str(folder / jobs.INPUT), block=job["block"], neurons=program.inputs[0].size)
    fused = FusedProgram(program=program, block=job["block"])
    sink = FileSink(path=str(folder / jobs.OUTPUT), shape=fused.s_out.shape, indices=slice(None))
    source.s_out.connect(fused.s_in)
    fused.s_out.connect(sink.a_in)
    return source


def _stock(folder: Path, job: dict[str, Any], arrays: jobs.Arrays) -> Any:
    sizes = job["sizes"]
    data = np.load(folder / jobs.INPUT)
    neurons = {
        "input": RingBuffer(data=np.ascontiguousarray(data.T)),
        "graded": GradedVec(shape=(sizes["graded"],), vth=0, exp=0),
    }
    if "units" in sizes:
        vth = arrays.get("units.vth", 0)
        neurons["units"] = LIFReset(
            shape=(sizes["units"],), du=DECAY, dv=DECAY, vth=vth, reset_interval=1, reset_offset=0
        )
    if "lif" in sizes:
        # Lava documents one du, dv and vth per Process; its fixed-point model computes with one per neuron, too.
        neurons["lif"] = LIF(shape=(sizes["lif"],), **{name: arrays[f"lif.{name}"] for name in LIF_REGISTERS})
    if "gates" in sizes:
        neurons["gates"] = ProdNeuron(shape=(sizes["gates"],), vth=0, exp=0)
    for i, synapse in enumerate(job["synapses"]):
        weights = csr_matrix(
            (arrays[f"{i}.values"].astype(np.int32), (arrays[f"{i}.rows"], arrays[f"{i}.columns"])),
            shape=(sizes[synapse["target"]], sizes[synapse["source"]]),
        )
        process = Sparse(
            weights=weights,
            weight_exp=synapse["weight_exp"],
            num_weight_bits=8,
            sign_mode=SignMode[synapse["sign_mode"]],
            num_message_bits=synapse["message_bits"],
        )
        neurons[synapse["source"]].s_out.connect(process.s_in)
        process.a_out.connect(getattr(neurons[synapse["target"]], synapse["port"]))
    sink = FileSink(path=str(folder / jobs.OUTPUT), shape=(sizes["graded"],), indices=arrays["traced"])
    neurons["graded"].s_out.connect(sink.a_in)
    return neurons["input"]
