"""What graphs read and how they are prepared: files of spikes, options, other time steps, float graphs."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

from nsllm_nir import at_time_step, lower, quantize, run, to_nir, verify
from nsllm_nir.errors import GraphError, InputError, IntegerOverflowError
from nsllm_nir.graph import DT, Graph, Node, from_nir_object, walk
from nsllm_nir.graph.spike_files import read_spikes
from nsllm_nir.program import Count, Input, Program
from nsllm_nir.quantization import float_reference
from nsllm_nir.report import plots
from nsllm_nir.verification.inputs import InputOptions, choose
from nsllm_nir.verification.prepare import prepare
from nsllm_nir.verification.verify import input_spikes

NODE = Input("input", 6)
SPIKES = np.random.default_rng(3).random((3, 9, 6)) < 0.4  # samples, steps, neurons


def time_gridded(path: Path, data: np.ndarray = SPIKES, dt: float = 1e-4, node: str = "input", **more: Any) -> Path:
    """A NIR data file."""
    observables = {"spikes": nir.TimeGriddedData(data, dt), **more}
    nir.write_data(path, nir.NIRGraphData({node: nir.NIRNodeData(observables)}))
    return path


def events(path: Path, data: nir.EventData) -> Path:
    nir.write_data(path, nir.NIRGraphData({"input": nir.NIRNodeData({"spikes": data})}))
    return path


FILES: dict[str, Callable[[Path], Path]] = {}


def spike_file(write: Callable[[Path], Any]) -> Callable[[Path], Any]:
    FILES[write.__name__] = write
    return write


@spike_file
def booleans(folder: Path) -> Path:
    np.save(folder / "s.npy", SPIKES[1])
    return folder / "s.npy"


@spike_file
def counts(folder: Path) -> Path:
    np.save(folder / "s.npy", SPIKES[1].astype(np.uint8))
    return folder / "s.npy"


@spike_file
def images(folder: Path) -> Path:
    np.save(folder / "s.npy", SPIKES[1].reshape(9, 1, 2, 3))
    return folder / "s.npy"


@spike_file
def archive_of_one(folder: Path) -> Path:
    np.savez(folder / "s.npz", SPIKES[1])
    return folder / "s.npz"


@spike_file
def archive_with_a_name(folder: Path) -> Path:
    np.savez_compressed(folder / "s.npz", labels=np.arange(3), spikes=SPIKES[1], weights=np.ones(2))
    return folder / "s.npz"


@spike_file
def one_sample(folder: Path) -> Path:
    return time_gridded(folder / "s.h5", SPIKES[1:2])


@pytest.mark.parametrize("kind", FILES)
def test_spikes_come_from_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    found = read_spikes(FILES[kind](tmp_path), NODE)
    assert found.dtype == np.int64 and np.array_equal(found, SPIKES[1])


@pytest.mark.parametrize("sample", range(3))
@pytest.mark.parametrize("kind", ["gridded", "events", "valued events"])
def test_a_sample_of_a_nir_data_file(kind: str, sample: int, tmp_path: Path) -> None:
    gridded = nir.TimeGriddedData(SPIKES, 1e-4)
    found = gridded.to_event(40, 0.5e-4)
    valued = nir.ValuedEventData(
        found.idx, found.time, found.n_neurons, found.t_max, np.ones(found.idx.shape, np.int64)
    )
    path = (
        time_gridded(tmp_path / "s")
        if kind == "gridded"
        else events(tmp_path / "s", found if kind == "events" else valued)
    )
    assert np.array_equal(read_spikes(path, NODE, sample=sample), SPIKES[sample])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_event_times_at_the_start_of_a_step_stay_in_it(dtype: Any, tmp_path: Path) -> None:
    """k dt / dt is a little less than k for many k; nir's own conversion moves such events one step back."""
    steps = np.arange(5000)
    grid = np.zeros((5000, 6), np.int64)
    grid[:, 2] = 1
    for dt in (1e-4, 1e-3):
        path = events(
            tmp_path / "s", nir.EventData(np.full((1, 5000), 2), (steps * dt).astype(dtype)[None], 6, 5000 * dt)
        )
        assert np.array_equal(read_spikes(path, NODE, dt=dt), grid)


def test_events_in_one_step_add_up(tmp_path: Path) -> None:
    path = events(tmp_path / "s", nir.EventData(np.array([[4, 4, -1]]), np.array([[2e-4, 2.5e-4, np.inf]]), 6, 4e-4))
    assert read_spikes(path, Input("input", 6, 2)).tolist() == [[0] * 6, [0] * 6, [0, 0, 0, 0, 2, 0], [0] * 6]
    with pytest.raises(InputError, match=r"s: 2 at step 2, neuron 4; the Input 'input' takes counts in \[0, 1\]$"):
        read_spikes(path, NODE)


def saved(array: Any, name: str = "s.npy") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.save(folder / name, array, allow_pickle=True)
        return folder / name

    return write


def zipped(**arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "s.npz", **arrays)
        return folder / "s.npz"

    return write


def raw(content: bytes, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def event_data(
    idx: Any = ((1,),), time: Any = ((1e-4,),), neurons: int = 6, t_max: float = 9e-4, value: Any = None
) -> Callable[[Path], Path]:
    more = {} if value is None else {"value": np.array(value)}
    kind = nir.EventData if value is None else nir.ValuedEventData
    return lambda folder: events(folder / "s.h5", kind(np.array(idx), np.array(time), neurons, t_max, **more))


def edited(change: Callable[[h5py.File], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = time_gridded(folder / "s.h5", SPIKES[:1])
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return write


def nir_graph(folder: Path) -> Path:
    nir.write(folder / "s.nir", nir.NIRGraph.from_list(nir.Input(np.array([6])), nir.Threshold(np.ones(6))))
    return folder / "s.nir"


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "s.npy", r"s\.npy: no such file$"),
    "folder": (lambda folder: folder, r" is a folder, expected a file of spikes$"),
    "floats": (
        saved(np.ones((3, 6))),
        r"s\.npy holds float64, expected integers or booleans; convert spikes with \.astype\(numpy\.int64\)$",
    ),
    "nan": (saved(np.full((3, 6), np.nan)), r"s\.npy holds float64, expected integers"),
    "complex": (saved(np.ones((3, 6), complex)), r"s\.npy holds complex128, expected integers"),
    "times": (saved(np.ones((3, 6), "m8[s]")), r"s\.npy holds timedelta64\[s\], expected integers"),
    "text": (saved(np.full((3, 6), "1")), r"s\.npy holds <U1, expected integers"),
    "pickle": (
        saved(np.full((3, 6), None)),
        r"s\.npy is not a readable \.npy file of numbers \(.*objects.*\); write it with numpy\.save",
    ),
    "pickle in an archive": (
        zipped(a=np.full((3, 6), None)),
        r"s\.npz is not a readable \.npz file of numbers \(.*pickle",
    ),
    "vector": (saved(np.ones(6, int)), r"s\.npy holds an array of shape \(6,\), the Input 'input' needs \(steps, 6\)$"),
    "narrow": (
        saved(np.ones((3, 5), int)),
        r"s\.npy holds an array of shape \(3, 5\), the Input 'input' needs \(steps, 6\)$",
    ),
    "transposed images": (saved(np.ones((6, 3, 3), int)), r"shape \(6, 3, 3\), the Input 'input' needs \(steps, 6\)$"),
    "no step": (saved(np.ones((0, 6), int)), r"s\.npy"),
    "no step in an archive": (zipped(a=np.ones((0, 6), int)), r"s\.npz holds no step; give at least one$"),
    "negative": (
        saved(np.diag([0, 0, 0, -1, 0, 0])),
        r"s\.npy: -1 at step 3, neuron 3; the Input 'input' takes counts in \[0, 1\]$",
    ),
    "large": (saved(np.diag([0, 2, 0, 0, 0, 0])), r"s\.npy: 2 at step 1, neuron 1; .* takes counts in \[0, 1\]$"),
    "huge": (saved(np.full((1, 6), 2**64 - 1, np.uint64)), r"s\.npy: 18446744073709551615 at step 0"),
    "empty file": (raw(b"", "s.npy"), r"s\.npy is not a readable \.npy file"),
    "empty archive": (raw(b"", "s.npz"), r"s\.npz is not a readable \.npz file"),
    "csv": (
        raw(b"0,1,0\n1,0,0\n", "s.csv"),
        r"s\.csv is not a readable NIR data file \(.*\); input is an \.npy or \.npz array",
    ),
    "no array": (
        zipped(),
        r"s\.npz holds 0 arrays \(none\); keep one, or call exactly one of them 'spikes' or 'input'$",
    ),
    "which array": (
        zipped(a=SPIKES[0], b=SPIKES[1]),
        r"s\.npz holds 2 arrays \('a', 'b'\); keep one, or call exactly one",
    ),
    "both names": (zipped(spikes=SPIKES[0], input=SPIKES[1]), r"holds 2 arrays \('spikes', 'input'\); keep one"),
    "nir graph": (nir_graph, r"s\.nir is a NIR graph; write the spikes with nir\.write_data$"),
    "samples": (
        lambda folder: time_gridded(folder / "s.h5"),
        r"node 'input', 'spikes' holds 3 samples; choose one, 0 to 2, with `sample`$",
    ),
    "no sample": (
        lambda folder: time_gridded(folder / "s.h5", SPIKES[:0]),
        r"holds 0 samples, numbered from 0; there is no sample 0$",
    ),
    "time step": (
        lambda folder: time_gridded(folder / "s.h5", SPIKES[:1], 1e-3),
        (
            r"has steps of 0\.001 s, the graph steps of 0\.0001 s; give `dt` = 0\.001 if the graph is meant so, "
            r"or sample the data again$"
        ),
    ),
    "other node": (
        lambda folder: time_gridded(folder / "s.h5", node="lif"),
        r"s\.h5 has data of 'lif'; .* those of the Input 'input'$",
    ),
    "which observable": (
        lambda folder: time_gridded(folder / "s.h5", input=nir.TimeGriddedData(SPIKES, 1e-4)),
        r"node 'input' holds 2 observables \('input', 'spikes'\); keep one",
    ),
    "potentials": (
        lambda folder: time_gridded(folder / "s.h5", SPIKES[:1] * 0.5),
        r"s\.h5 holds float64, expected integers or booleans",
    ),
    "data of another size": (
        lambda folder: time_gridded(folder / "s.h5", SPIKES[:1, :, :4]),
        r"shape \(9, 4\), the Input 'input' needs \(steps, 6\)$",
    ),
    "events of another size": (event_data(neurons=7), r"has 7 neurons, the Input 'input' needs 6$"),
    "event of no neuron": (
        event_data(idx=((6,),)),
        r"an event of neuron 6 at 0\.0001 s; neurons are 0 to 5, times from 0 to below t_max = 0\.0009 s$",
    ),
    "late event": (event_data(time=((9e-4,),)), r"an event of neuron 1 at 0\.0009 s"),
    "early event": (event_data(time=((-1e-4,),)), r"an event of neuron 1 at -0\.0001 s"),
    "event at no time": (event_data(time=((np.nan,),)), r"an event of neuron 1 at nan s"),
    "event that never comes": (event_data(time=((np.inf,),)), r"an event of neuron 1 at inf s"),
    "no time": (
        event_data(t_max=0.0),
        r"has t_max = 0 s, which is 0 steps of 0\.0001 s; 1 to [\d,]+ fit, save a part of it$",
    ),
    "nan time": (event_data(t_max=np.nan), r"has t_max = nan s"),
    "endless": (event_data(t_max=1e12), r"has t_max = 1e\+12 s, which is 1e\+16 steps"),
    "float neurons": (event_data(idx=((1.0,),)), r"idx and value must hold integers"),
    "float values": (event_data(value=((0.5,),)), r"idx and value must hold integers"),
    "negative values": (event_data(value=((-1,),)), r"-1 at step 1, neuron 1"),
    "events in one row": (
        event_data(idx=(1,), time=(1e-4,)),
        r"has idx \(1,\) and time \(1,\), expected \(samples, events\)",
    ),
    "no such arrays": (
        edited(lambda file: file.move("nodes/input/observables/spikes/data", "elsewhere")),
        r"is not a readable NIR data file",
    ),
    "no dt": (
        edited(lambda file: file["nodes/input/observables/spikes"].attrs.__delitem__("dt")),
        r"is not a readable NIR data file \(.*dt",
    ),
    "dt of two": (
        edited(lambda file: file["nodes/input/observables/spikes"].attrs.create("dt", np.ones(2))),
        r"the attribute 'dt' .* is no single number",
    ),
    "dt of text": (
        edited(lambda file: file["nodes/input/observables/spikes"].attrs.create("dt", "0.1")),
        r"the attribute 'dt' .* is no single number",
    ),
    "no nodes": (
        edited(lambda file: file.__delitem__("nodes")),
        r"s\.h5 holds no NIR data; write the spikes with nir\.write_data$",
    ),
    "a node of a subgraph": (
        edited(lambda file: file.move("nodes/input/observables", "nodes/input/nodes")),
        r"is not a readable NIR data file",
    ),
    "array for a group": (
        edited(lambda file: (file.__delitem__("nodes"), file.create_dataset("nodes", data=1))),
        r"is not a readable NIR data file",
    ),
    "flat data": (
        edited(
            lambda file: (
                file.__delitem__("nodes/input/observables/spikes/data"),
                file["nodes/input/observables/spikes"].create_dataset("data", data=[1]),
            )
        ),
        r"has the shape \(1,\), expected \(samples, steps, neurons\)$",
    ),
    "a claim beyond the file": (
        edited(
            lambda file: (
                file.__delitem__("nodes/input/observables/spikes/data"),
                file["nodes/input/observables/spikes"].create_dataset(
                    "data", (1, 1 << 40, 6), "i1", chunks=(1, 1024, 6)
                ),
            )
        ),
        r"claims [\d,]+ bytes, more than this file can hold",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_are_no_input(case: str, tmp_path: Path) -> None:
    write, message = REFUSED[case]
    with pytest.raises(InputError, match=rf"^{tmp_path}.*{message}"):
        read_spikes(write(tmp_path), NODE)


def test_samples_are_of_nir_data_files_and_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a sample can be chosen from a NIR data file only"):
        read_spikes(booleans(tmp_path), NODE, sample=0)
    for sample in (3, -1):
        with pytest.raises(InputError, match=f"holds 3 samples, numbered from 0; there is no sample {sample}$"):
            read_spikes(time_gridded(tmp_path / "s.h5"), NODE, sample=sample)


def test_an_array_that_claims_more_than_its_file_is_not_allocated(tmp_path: Path) -> None:
    header = {"descr": "|i1", "fortran_order": False, "shape": (1 << 40, 6)}
    with (tmp_path / "s.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(100))
    with pytest.raises(InputError, match=r"s\.npy is not a readable \.npy file"):
        read_spikes(tmp_path / "s.npy", NODE)


FLIPS = """
import sys
from pathlib import Path
import numpy as np
from nsllm_nir.errors import InputError
from nsllm_nir.program import Input
from nsllm_nir.graph.spike_files import read_spikes

path, many = Path(sys.argv[1]), int(sys.argv[2])
whole, outcomes = path.read_bytes(), {"read": 0, "refused": 0}
for i in range(many):
    rng = np.random.default_rng(i)
    data = bytearray(whole[: int(rng.integers(0, len(whole)))] if i % 4 == 0 else whole)
    for position in rng.integers(0, max(len(data), 1), 3 * bool(data)):
        data[position] ^= int(rng.integers(1, 256))
    path.write_bytes(data)
    try:
        read_spikes(path, Input("input", 6))
        outcomes["read"] += 1
    except InputError as error:
        assert len(str(error).splitlines()) == 1 and str(path) in str(error)
        outcomes["refused"] += 1
print(outcomes["read"], outcomes["refused"])
"""


@pytest.mark.parametrize("kind", ["booleans", "archive_with_a_name", "archive_of_one", "one_sample"])
def test_corrupt_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    """In a process of its own, since a crash of a library would end this one."""
    done = subprocess.run(
        [sys.executable, "-c", FLIPS, str(FILES[kind](tmp_path)), "200"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    read, refused = map(int, done.stdout.split())
    assert read + refused == 200 and refused >= 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"prompt": "x", "random": 0.5},
            r"^give only one of `prompt`, `tokens_file`, `text`, `input` and `random`, got `prompt` and `random`$",
        ),
        ({"steps": 3}, r"^`steps` belongs to `random`; give both or neither$"),
        ({"seed": 3, "text": "pydoc"}, r"^`seed` belongs to `random`"),
        ({"sample": 0, "random": 0.5}, r"^`sample` belongs to `input`"),
        ({"tokens": 3, "random": 0.5}, r"^`tokens` belongs to `text`"),
        ({"random": 0.5, "steps": 0}, r"^`steps` must be at least 1, got 0$"),
        ({"random": 1.5}, r"^`random` takes a spike rate in \[0, 1\], got 1\.5$"),
        ({"random": float("nan")}, r"^`random` takes a spike rate"),
        ({"random": 0.5, "seed": -1}, r"^`seed` must not be negative, got -1$"),
        ({"text": ""}, r"text needs a model with one input of 256 neurons"),
        ({}, r"^no input is given, and the graph reads no text; give `input` .a file of spikes. or `random`$"),
    ],
)
def test_options_that_name_no_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose(Program((NODE,), ("input",)), InputOptions(**options))


def test_random_spikes_have_length_rate_and_seed() -> None:
    program = Program((NODE,), ("input",))
    found = [choose(program, InputOptions(random=0.3, steps=500, seed=seed)) for seed in (None, 0, 1)]
    assert found[0].shape == (500, 6) and abs(found[0].mean() - 0.3) < 0.03
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])
    assert len(choose(program, InputOptions(random=0.3), length=7)) == 7


def test_several_inputs_are_named() -> None:
    program = Program((Input("left", 2), Input("right", 2)), ("left",))
    with pytest.raises(
        InputError, match=r"^the graph has 2 inputs \('left', 'right'\), one is expected; join them into one Input$"
    ):
        choose(program, InputOptions(random=0.5))


def full(value: float, size: int = 8) -> np.ndarray:
    return np.full(size, value, np.float32)


def network(dt: float, seed: int = 5) -> nir.NIRGraph:
    """Every parameter that depends on the time step; dyadic numbers, so that norse's float32 is exact."""
    rng = np.random.default_rng(seed)

    def affine(outputs: int, inputs: int) -> nir.Affine:
        return nir.Affine(
            (rng.integers(-6, 16, (outputs, inputs)) / 4).astype(np.float32), np.zeros(outputs, np.float32)
        )

    one, zero = full(1), full(0)
    return nir.NIRGraph.from_list(
        nir.Input(np.array([6])),
        affine(8, 6),
        nir.LIF(tau=full(4 * dt), r=one, v_leak=zero, v_threshold=one, v_reset=zero),
        affine(8, 8),
        nir.LIF(tau=full(2 * dt), r=one, v_leak=zero, v_threshold=one, v_reset=zero),
    )


def all_kinds(dt: float) -> Graph:
    """Every node type with a time in it, one of them in a subgraph."""

    def sub(*nodes: nir.NIRNode) -> nir.NIRGraph:
        return nir.NIRGraph.from_list(nir.Input(np.array([8])), *nodes)

    one, zero = full(1), full(0)
    neurons = [
        nir.CubaLIF(
            tau_mem=full(8 * dt),
            tau_syn=full(2 * dt),
            r=full(8),
            v_leak=zero,
            v_threshold=one,
            v_reset=zero,
            w_in=full(2),
        ),
        nir.IF(r=full(0.5 / dt), v_threshold=full(1.5), v_reset=zero),
        nir.Delay(full(3 * dt)),
    ]
    readouts = [nir.CubaLI(tau_mem=full(4 * dt), tau_syn=full(2 * dt), r=one, v_leak=zero, w_in=one)]
    weights = np.random.default_rng(1).integers(-3, 9, (8, 6)).astype(np.float32)
    nodes = {
        "input": nir.Input(np.array([6])),
        "w": nir.Linear(weights),
        "sub": sub(*neurons),
        "end": sub(*readouts),
        "output": nir.Output(np.array([8])),
    }
    return from_nir_object(
        nir.NIRGraph(nodes, [("input", "w"), ("w", "sub"), ("sub", "end"), ("end", "output")], type_check=False)
    )


INPUTS = np.random.default_rng(8).integers(0, 2, (60, 6))


@pytest.mark.parametrize("dt", [1e-3, 1.0, 3e-5, float(np.float32(1e-3))])
@pytest.mark.parametrize("build", [network, all_kinds])
def test_a_graph_at_another_time_step_is_the_same_graph(build: Callable[[float], Any], dt: float) -> None:
    here, there = at_time_step(build(DT), DT), at_time_step(build(dt), dt)
    want, got = (float_reference.run(graph, INPUTS).values for graph in (here, there))
    assert all(want[node].any() for node in want)
    for node, values in want.items():
        assert (
            np.array_equal(values, got[node])
            if values.dtype == bool
            else np.allclose(values, got[node], rtol=1e-6, atol=1e-9)
        )
    integers = [lower(quantize(graph)[0]) for graph in (here, there)]
    assert str(integers[0]) == str(integers[1])


def test_without_the_rewrite_the_graph_means_something_else() -> None:
    want, wrong = (float_reference.run(from_nir_object(network(dt)), INPUTS).values for dt in (DT, 1e-3))
    assert any(not np.array_equal(want[node], wrong[node]) for node in want)


def test_a_graph_at_the_projects_time_step_is_untouched(tmp_path: Path) -> None:
    graph = all_kinds(DT)
    assert at_time_step(graph, 1e-4) is graph
    nir.write(tmp_path / "g.nir", network(1e-3))
    found = at_time_step(tmp_path / "g.nir", 1e-3)
    assert found.origin is None and at_time_step(tmp_path / "g.nir", 1e-4).origin == tmp_path / "g.nir"
    assert {name for name, _ in walk(found)} == set(network(1e-3).nodes)


def test_integer_graphs_stay_integer() -> None:
    integer, _ = quantize(at_time_step(network(1e-3), 1e-3))
    slow = at_time_step(integer, DT * DT / 1e-3)  # the same numbers, written for steps of 1e-3 s
    assert not any(
        np.array_equal(node.array("tau"), other.array("tau"))
        for node, other in zip(integer.nodes.values(), slow.nodes.values(), strict=True)
        if isinstance(node, Node) and isinstance(other, Node) and node.type == "LIF"
    )
    assert str(prepare(slow, 1e-3).program) == str(lower(integer)) and prepare(slow, 1e-3).quantization is None


@pytest.mark.parametrize("dt", [0.0, -1e-3, float("nan"), float("inf")])
def test_time_steps_that_are_none(dt: float) -> None:
    for source in (network(1e-3), Program((NODE,), ("input",))):
        with pytest.raises(InputError, match=r"^the time step must be a positive number of seconds, got "):
            verify(source, INPUTS, ["reference"], dt=dt)


def test_errors_of_a_rewritten_graph_say_so() -> None:
    with pytest.raises(
        InputError, match=r"^a program counts steps and has no time step; give dt = 0\.001 together with the graph$"
    ):
        run(Program((NODE,), ("input",)), INPUTS, dt=1e-3)
    with pytest.raises(
        GraphError,
        match=(
            r"^lif: tau must be at least one step .*\(the graph is rewritten from steps of 0\.01 s to steps of "
            r"0\.0001 s"
        ),
    ):
        run(network(1e-3), INPUTS, dt=1e-2)
    with pytest.raises(GraphError, match=r"^a: tau holds no numbers"):
        at_time_step(Graph({"a": Node("LI", {"tau": "fast"})}, ()), 1e-3)


def test_norse_at_its_own_time_step(one_thread: None) -> None:
    """0 differences between norse at dt = 1e-3 and this project with dt=1e-3, at the float graph and after
    quantization.
    """
    norse_torch, torch = pytest.importorskip("norse.torch"), pytest.importorskip("torch")
    graph = network(1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = norse_torch.from_nir(graph, dt=1e-3)
    spikes: dict[str, list[np.ndarray]] = {}
    for name, module in model.named_modules():
        if isinstance(module, norse_torch.LIFBoxCell):
            module.register_forward_hook(
                lambda m, i, out, name=name: spikes.setdefault(name.split(".")[-1], []).append(
                    out[0].detach().numpy()[0]
                )
            )
    state = None
    with torch.no_grad():
        for row in torch.as_tensor(INPUTS, dtype=torch.float32):
            _, state = model(row[None], state)
    want = {name: np.array(rows).astype(bool) for name, rows in spikes.items()}
    assert set(want) == {"lif", "lif_1"} and all(0.02 < raster.mean() < 0.9 for raster in want.values())
    report = verify(graph, INPUTS, ["reference"], dt=1e-3)
    assert report.quantization is not None and report.quantization_error is not None
    floats = float_reference.run(at_time_step(graph, 1e-3), INPUTS).values
    wrong = float_reference.run(from_nir_object(graph), INPUTS).values
    for name, raster in want.items():
        assert np.array_equal(raster, floats[name]) and not np.array_equal(raster, wrong[name])
    differing = {name: int((raster != report.reference.values[name]).sum()) for name, raster in want.items()}
    assert differing == {node.node: node.differences for node in report.quantization_error.nodes}


def test_a_float_graph_is_quantized_and_reported(tmp_path: Path) -> None:
    graph = network(DT)
    nir.write(tmp_path / "g.nir", graph)
    reports = [
        verify(source, INPUTS, ["hls"])
        for source in (graph, from_nir_object(graph), tmp_path / "g.nir", str(tmp_path / "g.nir"), prepare(graph))
    ]
    for report in reports:
        assert report.exact and report.quantization is not None and not report.quantization.unchanged
        assert report.to_json()["quantization_error"] == reports[0].to_json()["quantization_error"]
    text = str(reports[0])
    assert (
        text.index("caused by quantization:")
        < text.index("lif ")
        < text.index("differences between backends:")
        < text.index("hls ")
    )
    error = reports[0].quantization_error
    assert error and {n.node: n.integer_spikes for n in error.nodes} == {
        name: int(reports[0].reference.values[name].sum()) for name in ("lif", "lif_1")
    }
    assert np.array_equal(run(graph, INPUTS, "hls").values["lif_1"], reports[0].reference.values["lif_1"])
    assert plots.layers(reports[0]) == {"all nodes": ["input", "lif", "lif_1"]}


def test_an_integer_graph_passes_unchanged(tmp_path: Path) -> None:
    integer, _ = quantize(network(DT))
    for source in (integer, lower(integer)):
        report = verify(source, INPUTS, ["reference"])
        assert report.quantization is None and report.quantization_error is None and "quantization" not in str(report)
        data = report.to_json()
        assert data["quantization"] is None and data["quantization_error"] is None
        assert str(report.program) == str(lower(integer))


def test_quantization_error_is_counted_apart_from_backends() -> None:
    """Coarse leaks: the integer graph differs from the float graph, and all backends agree all the same."""
    rng = np.random.default_rng(2)
    zero, one = np.zeros(8), np.ones(8)
    lif = nir.LIF(tau=np.full(8, 7.7e-4), r=np.full(8, 5.1), v_leak=zero, v_threshold=one, v_reset=zero)
    graph = nir.NIRGraph.from_list(nir.Input(np.array([6])), nir.Affine(rng.normal(0.1, 0.5, (8, 6)), zero), lif)
    report = verify(graph, np.random.default_rng(4).integers(0, 2, (400, 6)), ["hls", "lava"])
    assert report.quantization_error is not None and report.quantization_error.differences > 0
    assert report.exact and all(result.differences == 0 for result in report.results)


def test_the_helpful_error_is_shown(
    tmp_path: Path, edit_file: Callable[..., None], tiny_model: Callable[..., Any]
) -> None:
    class Sigma(nir.Threshold):
        """A node type of somebody's own."""

    with pytest.raises(GraphError, match=r"node type 'Sigma' is not supported; supported are"):
        prepare(nir.NIRGraph.from_list(Sigma(np.ones(2))))
    high = nir.LIF(
        tau=np.full(2, 2e-4), r=np.full(2, 2.0), v_leak=np.zeros(2), v_threshold=np.full(2, 1e7), v_reset=np.zeros(2)
    )
    with pytest.raises(
        GraphError, match=r"^linear: its thresholds, .* exceed the formats .*use larger weights or smaller thresholds"
    ):
        prepare(nir.NIRGraph.from_list(nir.Input(np.array([2])), nir.Linear(np.eye(2)), high))
    reset = nir.LIF(
        tau=np.full(2, 2e-4), r=np.ones(2), v_leak=np.zeros(2), v_threshold=np.ones(2), v_reset=np.full(2, 0.5)
    )
    with pytest.raises(GraphError, match=r"v_reset"):
        prepare(nir.NIRGraph.from_list(nir.Input(np.array([2])), reset))
    to_nir(tiny_model(), tmp_path / "m.nir")
    edit_file(tmp_path / "m.nir", "head/bias", lambda bias: bias + (1 << 30))
    with pytest.raises(IntegerOverflowError, match="'head', neuron"):  # a file of this project is never quantized
        prepare(tmp_path / "m.nir")


def test_spikes_keep_the_shape_of_an_image_in_python_too() -> None:
    """(steps, *shape) is (steps, neurons); without a step, and of another size, it is refused as such."""
    program = Program((Input("in", 12), Count("out", "in", np.ones(12, np.int32), 1)), ("out",))
    spikes = np.random.default_rng(0).integers(0, 2, (5, 3, 2, 2))
    assert np.array_equal(input_spikes(program, spikes), spikes.reshape(5, 12))
    assert input_spikes(program, spikes[:0]).shape == (0, 12)
    with pytest.raises(InputError, match=r"expects an array \(steps, 12\), got shape \(5, 6\)$"):
        input_spikes(program, spikes[:, :, :, 0])
