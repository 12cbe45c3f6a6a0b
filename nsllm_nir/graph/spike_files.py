"""Input spikes from files.

Numpy arrays (``.npy``, ``.npz``), and NIR data files as `nir.write_data` makes them (nir 1.0.8).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import InputError
from nsllm_nir.graph import hdf5_guard
from nsllm_nir.graph.hdf5_guard import dataset, member
from nsllm_nir.graph.nir_graph import DT
from nsllm_nir.graph.time_step import same_step
from nsllm_nir.program import Input

NAMES = ("spikes", "input")  # of the array to take where a file holds several
MOST_CELLS = 1 << 28  # steps times neurons of events: a corrupt t_max must not fill the memory
ROUNDING = 1e-3  # of a step: event times are multiples of dt up to the rounding of files


def read_spikes(path: Path | str, node: Input, *, sample: int | None = None, dt: float = DT) -> NDArray[np.int64]:
    """Spike counts (steps, neurons) for the Input ``node`` of a program.

    Args:
        path: ``.npy``; ``.npz`` with one array, or one named ``spikes`` or ``input``; any other name: a NIR data
            file with a node called like ``node``. Arrays are integer or boolean, (steps, neurons) or (steps, *shape) in
            C order.
        node: size and levels (largest count per step) of the Input.
        sample: which one of a NIR data file that holds several.
        dt: seconds per step of the graph; the steps of a data file must be the same, events fall into steps of this
            length.

    Raises:
        InputError: missing, unreadable or corrupt file, several arrays or samples and none chosen, another time
            step, wrong shape, type or values.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is a folder, expected a file of spikes" if path.is_dir() else f"{path}: no such file")
    if path.suffix not in (".npy", ".npz"):
        return _checked(_from_nir_data(path, node, sample, dt), node, str(path))
    if sample is not None:
        raise InputError(
            f"{path}: a sample can be chosen from a NIR data file only; save the array of one sample, (steps, neurons)"
        )
    return _checked(read_array(path), node, str(path))


def read_array(path: Path) -> NDArray[Any]:
    """The array of an ``.npy`` or ``.npz`` file, without pickle; raises InputError."""
    try:
        if path.suffix == ".npy":  # a memory map never claims more than the file holds
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
        with np.load(path, allow_pickle=False) as arrays:
            array = arrays[_choose(arrays.files, "array", str(path))]
    except InputError:
        raise
    except Exception as error:  # headers go through Python's tokenizer and parser, archives through zipfile and zlib
        kind = path.suffix
        raise InputError(
            f"{path} is not a readable {kind} file of numbers ({_line(error)}); write it with numpy.save or numpy.savez"
        ) from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds bytes that are no array; write it with numpy.savez")
    return array


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _choose(names: list[str], what: str, where: str) -> str:
    """The only name, or the one that says that it is the input; raises InputError."""
    found = names if len(names) == 1 else [name for name in names if name in NAMES]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(map(repr, names)) or "none"
    raise InputError(
        f"{where} holds {len(names)} {what}s ({listed}); keep one, or call exactly one of them 'spikes' or 'input'"
    )


def _checked(array: NDArray[Any], node: Input, where: str) -> NDArray[np.int64]:
    """(steps, neurons) of counts in [0, levels]."""
    if array.dtype.kind not in "biu":
        raise InputError(
            f"{where} holds {array.dtype}, expected integers or booleans; convert spikes with .astype(numpy.int64)"
        )
    if array.ndim < 2 or int(np.prod(array.shape[1:])) != node.size:
        raise InputError(
            f"{where} holds an array of shape {array.shape}, the Input {node.name!r} needs (steps, {node.size})"
        )
    if not len(array):
        raise InputError(f"{where} holds no step; give at least one")
    flat = array.reshape(len(array), node.size)
    if flat.min() < 0 or flat.max() > node.levels:
        step, neuron = (int(i) for i in np.argwhere((flat < 0) | (flat > node.levels))[0])
        raise InputError(
            f"{where}: {flat[step, neuron]} at step {step}, neuron {neuron}; the Input {node.name!r} takes counts in "
            f"[0, {node.levels}]"
        )
    return flat.astype(np.int64)


def _from_nir_data(path: Path, node: Input, sample: int | None, dt: float) -> NDArray[Any]:
    try:
        with hdf5_guard.open_file(path) as source:
            return _read_data(source.file, node, sample, dt, str(path))
    except InputError:
        raise
    except hdf5_guard.FAILURES as error:
        raise InputError(
            f"{path} is not a readable NIR data file ({_line(error)}); input is an .npy or .npz array (steps, "
            "neurons), or what nir.write_data writes"
        ) from error


def _number(group: h5py.Group, name: str) -> float:
    """An attribute that is a number.

    Only numbers are safe to read; the attributes that name types are left alone, for the arrays tell as much.
    """
    found = group.attrs.get_id(name)
    if found.shape != () or found.dtype.kind not in "iuf":
        raise TypeError(f"the attribute {name!r} of {group.name} is no single number")
    return float(group.attrs[name])


def _read_data(file: h5py.File, node: Input, sample: int | None, dt: float, where: str) -> NDArray[Any]:
    if "nodes" not in file:
        raise InputError(
            f"{where} {'is a NIR graph' if 'node' in file else 'holds no NIR data'}; write the spikes with "
            "nir.write_data"
        )
    nodes = member(file, "nodes")
    if node.name not in nodes:
        raise InputError(
            f"{where} has data of {', '.join(map(repr, nodes)) or 'no node'}; the spikes to read must be those of the "
            f"Input {node.name!r}"
        )
    observables, where = member(member(nodes, node.name), "observables"), f"{where}, node {node.name!r}"
    name = _choose(list(observables), "observable", where)
    group, where = member(observables, name), f"{where}, {name!r}"
    return _gridded(group, sample, dt, where) if "data" in group else _events(group, node, sample, dt, where)


def _sample(count: int, sample: int | None, where: str) -> int:
    if sample is None and count > 1:
        raise InputError(f"{where} holds {count} samples; choose one, 0 to {count - 1}, with `sample`")
    if not 0 <= (sample or 0) < count:
        raise InputError(f"{where} holds {count} samples, numbered from 0; there is no sample {sample or 0}")
    return sample or 0


def _gridded(group: h5py.Group, sample: int | None, dt: float, where: str) -> NDArray[Any]:
    """TimeGriddedData: ``data`` (samples, steps, neurons)."""
    step = _number(group, "dt")
    if not same_step(step, dt):
        remedy = f"give `dt` = {step:g} if the graph is meant so, or sample the data again"
        raise InputError(f"{where} has steps of {step:g} s, the graph steps of {dt:g} s; {remedy}")
    data = dataset(group, "data")
    if data.ndim != 3:
        raise InputError(f"{where} has the shape {data.shape}, expected (samples, steps, neurons)")
    found: NDArray[Any] = data[_sample(len(data), sample, where)]
    return found


def _events(group: h5py.Group, node: Input, sample: int | None, dt: float, where: str) -> NDArray[np.int64]:
    """EventData: ``idx`` and ``time`` (samples, events), idx -1 where there is none.

    ValuedEventData has counts in ``value`` as well.
    """
    idx, time = dataset(group, "idx"), dataset(group, "time")
    value = dataset(group, "value") if "value" in group else None
    if idx.ndim != 2 or any(data.shape != idx.shape for data in (time, value) if data is not None):
        raise InputError(
            f"{where} has idx {idx.shape} and time {time.shape}, expected (samples, events) of all its arrays"
        )
    if any(data.dtype.kind not in "iu" for data in (idx, value) if data is not None):
        raise InputError(f"{where}: idx and value must hold integers; convert counts with .astype(numpy.int64)")
    size, t_max = _number(group, "n_neurons"), _number(group, "t_max")
    if size != node.size:
        raise InputError(f"{where} has {size:g} neurons, the Input {node.name!r} needs {node.size}")
    row = _sample(len(idx), sample, where)
    neurons, times = idx[row].astype(np.int64), time[row].astype(np.float64)
    counts = np.ones(neurons.size, np.int64) if value is None else value[row].astype(np.int64)
    used = neurons != -1
    steps, last = _steps(times[used], dt), _steps(np.array([t_max]), dt)[0]
    if not 0 < last <= MOST_CELLS // node.size:
        most = MOST_CELLS // node.size
        raise InputError(
            f"{where} has t_max = {t_max:g} s, which is {last:g} steps of {dt:g} s; 1 to {most:,} fit, save a part of "
            "it"
        )
    wrong = np.flatnonzero(~((steps >= 0) & (steps < last) & (neurons[used] >= 0) & (neurons[used] < node.size)))
    if wrong.size:
        neuron, at = neurons[used][wrong[0]], times[used][wrong[0]]
        raise InputError(
            f"{where}: an event of neuron {neuron} at {at:g} s; neurons are 0 to {node.size - 1}, times from 0 to "
            f"below t_max = {t_max:g} s"
        )
    grid = np.zeros((int(last), node.size), np.int64)
    np.add.at(
        grid, (steps.astype(np.int64), neurons[used]), counts[used]
    )  # two spikes of a neuron in one step are a count of 2
    return grid


def _steps(seconds: NDArray[np.float64], dt: float) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.floor(seconds / dt + ROUNDING)
    return found
