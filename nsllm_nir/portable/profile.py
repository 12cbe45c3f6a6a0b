"""The portable profile: any program as a NIR chain of {Affine, LIF} that stock readers run spike for spike.

`to_portable` writes it, `decode` turns what a reader returned into a `Trace`. Rules, sizes and the
readers that were measured: ``docs/portable_profile.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from nsllm_nir.errors import BackendError, GraphError, InputError, LossyConversionError
from nsllm_nir.graph import DT, Graph, Node, as_graph, chain, read, write
from nsllm_nir.portable.lines import Form, Group, Ints, Lines, constant, identity
from nsllm_nir.program import Program, sources
from nsllm_nir.program.trace import Trace

VERSION = 1
MAX_WEIGHTS = 1 << 24
THRESHOLD = 3.0  # between the even potentials 2 and 4 that rows can reach around it
RELAY = 4
EXACT = 1 << 20  # weighted sums up to here stay at least 1/2 away from the threshold in float32, also as an Euler step
EXACT_OUTPUT = 1 << 24


def to_portable(program: Program, path: Path | str, *, max_weights: int = MAX_WEIGHTS, one_hot: bool = True) -> Graph:
    """Write ``program`` as a NIR file of Affine and memoryless LIF nodes only; returns the file, opened lazily.

    The Output holds one column per line of every traced spiking signal (exactly 0 or 1), then the integer
    potentials of the outputs; `decode` reads it. Equal programs give equal bytes.

    Args:
        program: one Input of binary spikes (levels 1).
        path: of the file to write; its folder must exist.
        max_weights: limit of the dense weights in the file; 2**24 are 64 MiB and about 10 ms per step on one core.
        one_hot: at least one input neuron spikes in every step (token ids), so that constants need no bias and
            a silent input stays silent. False: any input; constants then start from the bias of the first Affine.

    Raises:
        LossyConversionError: a size over the limit, several or graded inputs, a loop through several layers of
            neurons within one step, weighted sums beyond exact float32; names the operation, nothing is written.
    """
    if len(program.inputs) != 1 or program.inputs[0].levels != 1:
        shown = ", ".join(f"{op.name!r} with levels {op.levels}" for op in program.inputs)
        raise LossyConversionError(
            f"the portable profile holds one Input of binary spikes, the program has {shown}; join the inputs and "
            "give each level of a count its own neuron"
        )
    lines = Lines(program, max_weights)
    readout = [_Readout.of(program, name, lines.with_one(lines.settled(name)).trim()) for name in program.traced]
    stages = _schedule(lines, readout, one_hot)
    _check_size(stages, readout, max_weights)
    entry: dict[str, Any] = {
        "profile": "portable",
        "version": VERSION,
        "outputs": {f"{i:04d}": block.metadata() for i, block in enumerate(readout)},
    }
    if one_hot and stages.last[lines.one] > 0:
        entry["spiking_input"] = program.inputs[0].name
    write(path, _graph(stages, readout, {"nsllm_nir": entry}))
    return read(path)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Integer weights of the lines of one group: even sums, more than 3 where the line is on."""

    group: Group
    form: Form


@dataclass(frozen=True, eq=False)
class _Readout:
    """Columns of the Output for one traced signal: ``value[neuron[j]] += weight[j] * column[j]``.

    A spiking signal has a column per line that it reads, a potential one per neuron.
    """

    name: str
    size: int
    spikes: bool
    form: Form
    neuron: Ints
    weight: Ints

    @classmethod
    def of(cls, program: Program, name: str, form: Form) -> _Readout:
        signal = program.signals[name]
        neuron, weight = np.arange(signal.size), np.ones(signal.size, np.int64)
        if signal.spikes:
            neuron, column = np.nonzero(form.weight)
            weight = form.weight[neuron, column]
            form = identity(form.terms).rows(column)
        _check_exact(name, form, EXACT_OUTPUT)
        return cls(name, signal.size, signal.spikes, form, neuron.astype(np.int32), weight.astype(np.int32))

    def metadata(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "size": self.size,
            "spikes": int(self.spikes),
            "neuron": self.neuron,
            "weight": self.weight,
        }


@dataclass(frozen=True, eq=False)
class _Chain:
    """Stages 1 .. depth. birth, last: (lines,) first and last stage that holds the line (0: the Input)."""

    rows: list[_Rows]
    birth: Ints
    last: Ints
    depth: int
    inputs: int
    biased: int  # the line that a bias drives, or -1

    def population(self, stage: int) -> Ints:
        """Lines of a stage, ascending."""
        return np.arange(self.inputs) if stage == 0 else np.flatnonzero((self.birth <= stage) & (self.last >= stage))


def _rows(lines: Lines, group: Group) -> _Rows:
    """``form >= 1`` as ``gain * form' > 3`` with even sums: over the common divisor, the constant on line `one`."""
    divisor = np.maximum(np.gcd.reduce(group.form.weight, axis=1, initial=0), 1)
    need = -((group.form.bias - 1) // divisor)  # on where weight // divisor @ x >= need
    gain = np.where(need == 1, 4, 2)
    offset = np.where((need == 1) | (need == 2), 0, -2 * (need - 2))
    weight = group.form.weight // divisor[:, None] * gain[:, None]
    form = lines.with_one(Form(group.form.terms, weight, offset)).trim()
    _check_exact(group.op, form, EXACT)
    return _Rows(group, form)


def _check_exact(op: str, form: Form, limit: int) -> None:
    largest = int(np.abs(form.weight).sum(axis=1).max(initial=0))
    if largest > limit:
        raise LossyConversionError(
            f"{op!r}: weighted sums up to {largest:,} are not safe in the float32 of stock readers, the limit is "
            f"{limit:,}; use fewer weight or fraction bits"
        )


def _schedule(lines: Lines, readout: list[_Readout], one_hot: bool) -> _Chain:
    """The stage of each line: after all lines it reads in the same step, not before those it reads one step late."""
    size = lines.one
    one = Group(
        "constant",
        lines.one,
        Form(2 * np.arange(size), np.ones((1, size), np.int64), np.zeros(1, np.int64))
        if one_hot
        else constant(np.zeros(1)),
    )
    rows = [_rows(lines, group) for group in (one, *lines.groups)]
    birth = np.zeros(lines.count, np.int64)
    for _ in range(len(rows) + 2):
        moved = [r.group for r in rows if _settle(birth, r)]
        if not moved:
            break
    else:
        raise _loop_error(lines, moved)
    depth = max(1, int(birth.max()))
    last = np.full(lines.count, -1)
    for r in rows:
        stage = int(birth[r.group.first]) if r.group.size else 1
        now, before = r.form.terms[r.form.terms % 2 == 0] // 2, r.form.terms[r.form.terms % 2 == 1] // 2
        last[now] = np.maximum(last[now], stage - 1)
        last[before] = np.maximum(last[before], stage)
    for block in readout:
        last[block.form.terms // 2] = depth
    return _Chain(rows, birth, last, depth, size, -1 if one_hot else lines.one)


def _settle(birth: Ints, r: _Rows) -> bool:
    """Move a group to the first stage that its terms allow; True where it moved."""
    late = r.form.terms % 2 == 1
    read_lines = r.form.terms // 2
    stage = max(1, int((birth[read_lines] + ~late).max(initial=1)))
    moved = r.group.size > 0 and stage > birth[r.group.first]
    if moved:
        birth[r.group.lines] = stage
    return moved


def _loop_error(lines: Lines, moved: list[Group]) -> LossyConversionError:
    names = {group.op for group in moved}
    loops = [op.name for op in lines.program.ops if op.recurrent and sources(op)[0] in names]
    delay = loops[0] if loops else moved[0].op
    return LossyConversionError(
        f"{delay!r}: its loop passes more than one layer of neurons within a step, and stock readers disagree on such "
        "loops; "
        "put a delay of one token behind every layer of the loop, or write the structured profile"
    )


def _recurrent_rows(stages: _Chain, stage: int) -> int:
    population = stages.population(stage)
    looped = [
        r.group.lines[_late(r.form).weight.any(axis=1)]
        for r in stages.rows
        if r.group.size and stages.birth[r.group.first] == stage
    ]
    return int(np.isin(population, np.concatenate(looped)).sum()) if looped else 0


def _late(form: Form) -> Form:
    late = form.terms % 2 == 1
    return Form(form.terms[late], form.weight[:, late], form.bias)


def _check_size(stages: _Chain, readout: list[_Readout], max_weights: int) -> None:
    sizes = [stages.population(k).size for k in range(stages.depth + 1)]
    weights = sum(n * (sizes[k] + 2 * _recurrent_rows(stages, k + 1)) for k, n in enumerate(sizes[1:])) + sizes[
        -1
    ] * _columns(readout)
    if weights > max_weights:
        largest = max((r.group for r in stages.rows), key=lambda group: group.size)
        raise LossyConversionError(
            f"the portable profile of this program needs {weights:,} dense weights in {stages.depth} stages of up to "
            f"{max(sizes):,} neurons, the limit is "
            f"{max_weights:,}; {largest.op!r} alone needs {largest.size:,} neurons. "
            "Use fewer neurons, levels or state fraction bits, or write the structured profile"
        )


def _columns(readout: list[_Readout]) -> int:
    return sum(block.neuron.size for block in readout)


def _graph(stages: _Chain, readout: list[_Readout], metadata: dict[str, Any]) -> Graph:
    """One chain, with a loop at each stage that remembers; names sort in the order of execution."""
    digits = max(2, len(str(stages.depth + 1)))
    size = _columns(readout)
    nodes: dict[str, Node | Graph] = {
        "input": Node("Input", {"shape": np.array([stages.inputs])}),
        "output": Node("Output", {"shape": np.array([size])}),
    }
    edges: list[tuple[str, str]] = []
    source = "input"
    for k in range(1, stages.depth + 1):
        prefix = f"stage_{k:0{digits}d}_"
        forward, bias, loop = _stage(stages, k)
        lif = prefix + "lif"
        nodes[prefix + "affine"], nodes[lif] = _affine(forward, bias), _lif(len(bias))
        edges += chain(source, prefix + "affine", lif)
        if loop is not None:
            # Two nodes: snnTorch rewrites loops of a single Affine. The second only places the rows.
            nodes[prefix + "loop_1"], nodes[prefix + "loop_2"] = _affine(loop[0]), _affine(loop[1])
            edges += chain(lif, prefix + "loop_1", prefix + "loop_2", lif)
        source = lif
    last = stages.population(stages.depth)
    matrix = np.zeros((size, last.size), np.float32)
    start = 0
    for block in readout:
        matrix[start : start + block.neuron.size, np.searchsorted(last, block.form.terms // 2)] = block.form.weight
        start += block.neuron.size
    name = f"stage_{stages.depth + 1:0{digits}d}_readout"
    nodes[name] = _affine(matrix)
    edges += chain(source, name, "output")
    return Graph(nodes, tuple(sorted(edges)), metadata)


def _stage(stages: _Chain, stage: int) -> tuple[Ints, Ints, tuple[Ints, Ints] | None]:
    """Weights (lines, lines of the stage before), bias (lines,), and the two factors of the loop if there is one."""
    before, population = stages.population(stage - 1), stages.population(stage)
    forward = np.zeros((population.size, before.size), np.float32)
    loop = np.zeros((population.size, population.size), np.float32)
    bias = np.where(population == stages.biased, np.float32(RELAY if stage == 1 else 0), np.float32(0))
    relayed = np.flatnonzero(stages.birth[population] < stage)
    forward[relayed, np.searchsorted(before, population[relayed])] = RELAY
    for r in stages.rows:
        if not r.group.size or stages.birth[r.group.first] != stage:
            continue
        kept = np.isin(r.group.lines, population)
        rows = np.searchsorted(population, r.group.lines[kept])
        late = r.form.terms % 2 == 1
        forward[np.ix_(rows, np.searchsorted(before, r.form.terms[~late] // 2))] = r.form.weight[np.ix_(kept, ~late)]
        loop[np.ix_(rows, np.searchsorted(population, r.form.terms[late] // 2))] = r.form.weight[np.ix_(kept, late)]
    looped = np.flatnonzero(loop.any(axis=1))
    if not looped.size:
        return forward, bias, None
    return forward, bias, (loop[looped], np.eye(population.size, dtype=np.float32)[:, looped])


def _affine(weight: Ints, bias: Ints | None = None) -> Node:
    return Node("Affine", {"weight": weight, "bias": np.zeros(weight.shape[0], np.float32) if bias is None else bias})


def _lif(size: int) -> Node:
    """Memoryless: spikes where the input of this step is above the threshold."""
    values = {"tau": DT, "r": 1.0, "v_leak": 0.0, "v_threshold": THRESHOLD, "v_reset": 0.0}
    return Node("LIF", {key: np.full(size, value, np.float32) for key, value in values.items()})


def decode(graph: Graph | nir.NIRGraph | Path | str, outputs: NDArray[Any]) -> Trace:
    """The traced signals of the program behind a portable file, from what a reader returned at its Output.

    Args:
        graph: the portable file or graph.
        outputs: (steps, columns) values of the Output node.

    Raises:
        GraphError: not a portable file.
        BackendError: outputs of another shape, a line that is not 0 or 1, a potential that is not an integer.
        InputError: a step without an input spike, in a file that was written for ``one_hot`` inputs and needs them.
    """
    entry = as_graph(graph).metadata.get("nsllm_nir", {})
    if entry.get("profile") != "portable" or int(entry.get("version", 0)) != VERSION:
        raise GraphError(f"this is not a portable file of version {VERSION}; write one with to_portable")
    blocks = [block for _, block in sorted(entry["outputs"].items())]
    columns = sum(len(block["neuron"]) for block in blocks)
    array = np.asarray(outputs)
    if array.ndim != 2 or array.shape[1] != columns:
        raise BackendError(f"the outputs must have the shape (steps, {columns}), got {array.shape}")
    values, start = {}, 0
    for block in blocks:
        name, neuron = str(block["name"]), np.asarray(block["neuron"])
        found = array[:, start : start + neuron.size]
        _check_values(name, found, neuron, binary=bool(block["spikes"]))
        value = np.zeros((len(array), int(block["size"])), np.int64)
        np.add.at(value.T, neuron, (found.astype(np.int64) * np.asarray(block["weight"])).T)
        values[name] = value
        start += neuron.size
    if "spiking_input" in entry:
        silent = np.flatnonzero(~values[str(entry["spiking_input"])].any(axis=1))
        if silent.size:
            raise InputError(
                f"step {silent[0]} holds no input spike, but the file was written with one_hot=True; write it with "
                "one_hot=False"
            )
    return Trace(values)


def _check_values(name: str, found: NDArray[Any], neuron: Ints, *, binary: bool) -> None:
    wrong = ~np.isin(found, (0, 1)) if binary else found != np.rint(found)
    if wrong.any():
        step, column = (int(i) for i in np.argwhere(wrong)[0])
        kind = "a binary spike" if binary else "an integer"
        raise BackendError(
            f"node {name!r}, step {step}, neuron {neuron[column]}: the reader returned {found[step, column]}, not "
            f"{kind}"
        )
