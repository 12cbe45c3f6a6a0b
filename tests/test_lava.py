"""Lava backends: exact against the reference, mutants located, and workers that cannot hang or leak."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsllm_nir import exporters, processes
from nsllm_nir.errors import BackendError, InputError, LossyConversionError, ToolNotFoundError
from nsllm_nir.exporters import lava, lava_client, lava_constraints, lava_network, lava_stock
from nsllm_nir.exporters.lava_worker import job as jobs
from nsllm_nir.exporters.lava_worker.engine import Engine
from nsllm_nir.program import Count, Delay, Gate, Input, Integrate, Linear, Op, Program, Sum, Widths, reference
from nsllm_nir.program.trace import Trace, compare, first_difference

try:
    MISSING = "" if lava.fused.version() else "lava-nc has no version"
except ToolNotFoundError as error:
    MISSING = str(error)
needs_lava = pytest.mark.skipif(bool(MISSING), reason=MISSING or "Lava is installed")

Build = Callable[..., Program]
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def clean() -> Iterator[None]:
    """Fails a test that leaves a shared-memory segment behind."""
    before = set(os.listdir(SHARED_MEMORY))
    yield
    _until(
        lambda: not set(os.listdir(SHARED_MEMORY)) - before,
        "shared memory is left: a segment that was not there before",
    )


def _until(condition: Callable[[], bool], message: str, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.05)


def _one_hot(tokens: np.ndarray) -> np.ndarray:
    return reference.one_hot(tokens, 16)


def _differences(expected: Trace, actual: Trace) -> int:
    return sum(result.differences for result in compare(expected, actual))


def _linear(name: str, source: str, weight: Any, bias: int = 0, shift: Any = 0) -> Linear:
    w = np.array(weight, np.int8)
    return Linear(
        name, source, w, np.full(len(w), bias, np.int32), np.broadcast_to(np.asarray(shift, np.uint8), (len(w),))
    )


def _with(program: Program, name: str, **fields: Any) -> Program:
    return replace(program, ops=tuple(replace(op, **fields) if op.name == name else op for op in program.ops))


# ---------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize(("seed", "layers"), [(0, 1), (1, 2), (2, 3)])
def test_engine_equals_reference_and_survives_the_job_files(
    random_program: Build, tokens: np.ndarray, tmp_path: Path, seed: int, layers: int
) -> None:
    program = random_program(seed, layers=layers)
    data, arrays = jobs.program_to_data(program)
    jobs.write(tmp_path, {"program": data}, arrays)
    job, arrays = jobs.read(tmp_path)
    again = jobs.program_from_data(job["program"], arrays)
    assert str(again) == str(program)
    want = reference.run(program, _one_hot(tokens))
    engine = Engine(again)
    got = np.vstack([engine.run(block) for block in np.array_split(_one_hot(tokens), 3)])
    np.testing.assert_array_equal(got, np.hstack([want.values[node] for node in program.traced]))


@needs_lava
@pytest.mark.parametrize("name", ["lava", "lava-stock"])
@pytest.mark.parametrize(("seed", "layers"), [(0, 1), (1, 2)])
def test_backend_equals_reference(
    random_program: Build, tokens: np.ndarray, clean: None, name: str, seed: int, layers: int
) -> None:
    program = random_program(seed, layers=layers)
    want = reference.run(program, _one_hot(tokens))
    got = exporters.load(name).compile(program).run(_one_hot(tokens))
    assert _differences(want, got) == 0
    assert list(got.values) == list(program.traced)
    assert sum(int(np.abs(v).sum()) for v in want.values.values()) > 1000


@needs_lava
@pytest.mark.parametrize("name", ["lava", "lava-stock"])
def test_the_size_of_a_shipped_model(random_program: Build, clean: None, name: str) -> None:
    program = random_program(3, width=128, vocabulary=256, layers=5)
    inputs = reference.one_hot(np.random.default_rng(0).integers(0, 256, 64), 256)
    assert _differences(reference.run(program, inputs), exporters.load(name).compile(program).run(inputs)) == 0


@needs_lava
def test_session_equals_reference(random_program: Build, tokens: np.ndarray, clean: None) -> None:
    program = random_program(1, layers=2)
    want = reference.run(program, _one_hot(tokens)).values["logits"]
    with lava.fused.compile(program).open() as session:
        got = np.array([session.step(row) for row in _one_hot(tokens)])
        with pytest.raises(InputError, match="input"):
            session.step(np.full(16, 2))
    np.testing.assert_array_equal(got, want)


@needs_lava
def test_a_session_takes_blocks_of_any_length_up_to_its_own(
    random_program: Build, tokens: np.ndarray, clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = random_program(1, layers=2)
    inputs = _one_hot(tokens)
    want = reference.run(program, inputs).values
    monkeypatch.setattr(lava, "BLOCK_TOKENS", 4)
    with lava.fused.compile(program).start(10) as session:  # messages of 4 tokens, 3 of them
        parts = [session.run(block) for block in np.split(inputs, [10, 11, 15, 15, 23])[:5]]
        with pytest.raises(InputError, match="runs of up to 12 tokens, got 13"):
            session.run(inputs[:13])
    for node in program.traced:
        np.testing.assert_array_equal(np.vstack([part[node] for part in parts]), want[node][:23])


@needs_lava
@pytest.mark.parametrize("backend", [lava.fused, lava.stock])
def test_no_tokens_give_an_empty_trace(random_program: Build, backend: Any) -> None:
    program = random_program(0)
    got = backend.compile(program).run(np.zeros((0, 16), np.int64))
    assert _differences(reference.run(program, np.zeros((0, 16), np.int64)), got) == 0


def _edge_program() -> Program:
    """Potentials near 24 bits, thresholds at and one below them, mixed shifts, delays of delays, every decay."""
    levels, weight = 255, np.array([[127], [127], [100], [-128], [1], [3]])
    top = 255 * np.array([127 << 8, 127 << 8, 100 << 3, -(128 << 2), 1, 3])
    step = np.array([2 * top[0], 2 * top[1] - 2, 2 * top[2] - 1, 1, 2 * top[4] - 2, 5], np.int32)
    ops: list[Op] = [
        Input("x", 1, levels),
        _linear("v", "x", weight, 0, [8, 8, 3, 2, 0, 0]),
        Count("fires", "v", step, 1),
        Delay("d", "fires", np.array([0, 1, 2, 3, 0, 1], np.int32)),
        Delay("dd", "d", np.array([1, 0, 2, 0, 1, 0], np.int32)),
        Integrate("s", "dd", np.array([0, 128, 192, 224, 255, 252], np.int32), 7),
        Sum("t", ("s", "s", "dd"), np.array([-300, 300, 70000, -70000, 0, 1], np.int32)),
        Count("signed", "t", np.full(6, 61, np.int32), 9, signed=True),
        Gate("g", "d", "signed"),
        _linear("out", "g", np.array([[1, -1, 2, -128, 127, 5]]), -8_000_000),
    ]
    return Program(tuple(ops), ("out", "t"))


@needs_lava
@pytest.mark.parametrize("name", ["lava", "lava-stock"])
def test_extreme_values(clean: None, name: str) -> None:
    program = _edge_program()
    inputs = np.array([[255], [0], [254], [255], [1], [255], [255], [0], [0], [128], [255], [255]])
    want = reference.run(program, inputs)
    assert {0, 1} == set(want.values["fires"][:, 1]) and not want.values["fires"][:, 0].any()
    assert _differences(want, exporters.load(name).compile(program).run(inputs)) == 0


def _recurrent_program() -> Program:
    ops: list[Op] = [
        Input("x", 4),
        Delay("back", "spikes", np.array([1, 2, 1], np.int32)),
        _linear("forward", "x", [[5, -2, 3, 0], [1, 4, 0, -3], [0, 2, 2, 2]]),
        _linear("recurrent", "back", [[0, 2, -1], [3, 0, 1], [-2, 1, 0]]),
        Sum("v", ("forward", "recurrent"), np.zeros(3, np.int32)),
        Count("spikes", "v", np.array([3, 3, 3], np.int32), 4),
    ]
    return Program(tuple(ops), ("spikes",))


@needs_lava
def test_recurrence_is_exact_when_fused_and_refused_by_name_in_stock(clean: None) -> None:
    program = _recurrent_program()
    inputs = np.random.default_rng(0).integers(0, 2, (30, 4))
    assert _differences(reference.run(program, inputs), lava.fused.compile(program).run(inputs)) == 0
    with pytest.raises(LossyConversionError, match=r"'back'.*loop"):
        lava.stock.compile(program)


# ------------------------------------------------------------------------------------------ mutants


def _bumped(array: np.ndarray, by: int) -> Iterator[np.ndarray]:
    for index in np.ndindex(array.shape):
        changed = array.copy()
        changed[index] += by
        yield changed


def _other_decays(program: Program, name: str) -> Iterator[np.ndarray]:
    decay = next(op.decay for op in program.ops if op.name == name and isinstance(op, Integrate))
    for i in range(decay.size):
        changed = decay.copy()
        changed[i] = 256 - 2 * (256 - decay[i])  # twice the leak
        yield changed


def _field(program: Program, name: str, key: str) -> np.ndarray:
    return getattr(next(op for op in program.ops if op.name == name), key)


MUTANTS: dict[str, tuple[str, Callable[[Program], Iterator[Program]]]] = {
    "weight": (
        "layer_00.key_spikes",
        lambda p: (_with(p, "layer_00.key", weight=w) for w in _bumped(_field(p, "layer_00.key", "weight"), 1)),
    ),
    "bias": ("logits", lambda p: (_with(p, "logits", bias=b) for b in _bumped(_field(p, "logits", "bias"), -1))),
    "shift": ("logits", lambda p: (_with(p, "logits", shift=b) for b in _bumped(_field(p, "logits", "shift"), 1))),
    "threshold": (
        "layer_00.key_spikes",
        lambda p: (
            _with(p, "layer_00.key_spikes", step=s) for s in _bumped(_field(p, "layer_00.key_spikes", "step"), 1)
        ),
    ),
    "decay": (
        "layer_00.read_spikes",
        lambda p: (_with(p, "layer_00.numerator", decay=d) for d in _other_decays(p, "layer_00.numerator")),
    ),
    "delay": (
        "layer_00.shift",
        lambda p: (_with(p, "layer_00.shift", steps=s) for s in _bumped(_field(p, "layer_00.shift", "steps"), 1)),
    ),
}


@needs_lava
@pytest.mark.parametrize("name", ["lava", "lava-stock"])
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught_at_their_node(random_program: Build, tokens: np.ndarray, name: str, mutant: str) -> None:
    program, inputs = random_program(0), _one_hot(tokens)
    want = reference.run(program, inputs)
    node, mutate = MUTANTS[mutant]
    changed = next(p for p in mutate(program) if _differences(want, reference.run(p, inputs)))
    found = first_difference(compare(want, exporters.load(name).compile(changed).run(inputs)))
    assert found is not None and found.node == node
    assert found == first_difference(compare(want, reference.run(changed, inputs)))


@needs_lava
def test_a_latency_off_by_one_is_caught(random_program: Build, tokens: np.ndarray) -> None:
    program, inputs = random_program(0), _one_hot(tokens)
    executable = lava.stock.compile(program)
    indices, lag = executable.network.traced["layer_00.shift"]
    network = replace(executable.network, traced={**executable.network.traced, "layer_00.shift": (indices, lag + 1)})
    results = compare(reference.run(program, inputs), replace(executable, network=network).run(inputs))
    assert [r.node for r in results if r.differences] == ["layer_00.shift"]


@needs_lava
@pytest.mark.parametrize("rounding", [62, 64])
def test_a_wrong_rounding_of_the_comparison_is_caught(monkeypatch: pytest.MonkeyPatch, rounding: int) -> None:
    program, inputs = _edge_program(), np.array([[255], [254], [255], [1]])
    monkeypatch.setattr(lava_stock, "LIF_ROUNDING", rounding)
    results = compare(reference.run(program, inputs), lava.stock.compile(program).run(inputs))
    found = first_difference(results)
    assert found is not None and found.node == "fires"


@needs_lava
def test_a_dropped_recurrent_projection_is_caught(random_program: Build, tokens: np.ndarray) -> None:
    program, inputs = random_program(0), _one_hot(tokens)
    executable = lava.stock.compile(program)
    network = executable.network
    kept = tuple(p for p in network.projections if (p.target.node, p.weight_exp) != ("layer_00.numerator", -8))
    assert len(kept) == len(network.projections) - 1
    results = compare(
        reference.run(program, inputs), replace(executable, network=replace(network, projections=kept)).run(inputs)
    )
    found = first_difference(results)
    assert found is not None and found.node == "layer_00.read_spikes"


# ------------------------------------------------------------------------------------- stock lowering


def test_constants_are_balanced_digits() -> None:
    values = np.array([0, 1, -1, 127, 128, -128, -129, 65535, -8_388_608, 8_355_711, 1234567])
    parts = lava_stock.digits(values)
    assert parts.min() >= -128 and parts.max() <= 127
    np.testing.assert_array_equal(np.array(lava_stock.PAYLOADS) @ parts, values)


def test_unit_intervals_hold_every_comparison(random_program: Build) -> None:
    program = random_program(1, layers=2)
    for op in program.ops:
        if isinstance(op, Count):
            low, high = lava_stock.unit_interval(op, program)
            v = program.signals[op.source]
            signed = (v.low, v.high, -v.low, -v.high) if op.signed else (v.low, v.high)
            for m in (1, op.levels):
                odd = 2 * m - 1
                if isinstance(op.step, str):
                    s = program.signals[op.step]
                    sums = [2 * a - odd * b for a in signed for b in (s.low, s.high)]
                else:
                    sums = [a - (odd * op.step.astype(np.int64) >> 1) for a in signed]
                assert low <= np.min(sums) and np.max(sums) <= high


def test_lags_follow_the_graph() -> None:
    network = lava_stock.lower(_edge_program())
    lags = {node: lag for node, (_, lag) in network.traced.items()}
    assert lags == {"x": 1, "fires": 4, "d": 4, "dd": 4, "t": 6, "signed": 8, "g": 10, "out": 11}
    assert network.latency == 11


@needs_lava
@pytest.mark.parametrize(("weight", "processes"), [(1, 2), (7, 2), (127, 3)])
def test_shifts_share_synapses_where_the_weights_have_room(clean: None, weight: int, processes: int) -> None:
    linear = _linear("y", "x", np.array([[weight], [-weight], [weight], [0], [1]]), 0, [0, 3, 6, 12, 8])
    program = Program((Input("x", 1, 2), linear, _linear("z", "x", [[127], [3]], 0, [1, 7])), ("y", "z"))
    network = lava_stock.lower(program)
    assert len({p.process for p in network.projections if p.target.node == "y"}) <= processes
    inputs = np.array([[1], [2], [0], [1]])
    assert _differences(reference.run(program, inputs), lava.stock.compile(program).run(inputs)) == 0


def test_few_lava_processes(random_program: Build) -> None:
    job, _ = lava_network.job(lava_stock.lower(random_program(1, width=32, layers=4)))
    assert len(job["synapses"]) + len(job["sizes"]) + 1 <= 18


@needs_lava
def test_stock_cannot_generate(random_program: Build) -> None:
    with pytest.raises(BackendError, match=r"pipeline.*'lava'"):
        lava.stock.compile(random_program(0)).open()


# ---------------------------------------------------------------------------------- constraint report


def test_constraint_report_is_plain_data(random_program: Build) -> None:
    program = random_program(1, layers=2)
    rows = lava_constraints.constraints(program)
    again = json.loads(json.dumps(lava_constraints.as_rows(rows)))
    assert len(again) == len(rows) and {row["status"] for row in again} == {"ok"}
    assert {row["node"] for row in again} == {op.name for op in program.ops} | {""}
    units = next(r for r in rows if r.node == "layer_00.in_spikes" and r.role == "units")
    assert (units.process, units.neurons, units.message_bits, units.weight_exponents) == (
        "LIFReset",
        2 * 4 * 8,
        1,
        (-7,),
    )
    integrator = next(r for r in rows if r.node == "layer_00.numerator" and r.role == "value")
    assert integrator.weight_high == 252 and integrator.sign_mode == "EXCITATORY+MIXED"
    assert integrator.state_high == program.signals["layer_00.numerator"].high.max()
    assert next(r for r in rows if r.node == "layer_00.shift").delay == 2
    assert 1 <= lava_constraints.estimated_cores(rows) <= lava_constraints.LOIHI2_CORES


WIDTHS = Widths()


def _count_program(
    count: Count, *, weight: int = 1, shift: int = 0, levels: int = 1, widths: Widths = WIDTHS
) -> Program:
    source: list[Op] = [Input("x", 1, levels), _linear("v", "x", [[weight]], 0, shift), _linear("s", "x", [[1]], 4)]
    return Program((*source, count), ("count",), widths)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (_count_program(Count("count", "v", "s", 65)), r"'count'.*weights in \[-258, .*fewer levels"),
        (
            _count_program(Count("count", "v", np.array([9], np.int32), 1), weight=127, shift=9),
            r"'v'.*weight exponent 8",
        ),
        (
            _count_program(Count("count", "v", np.array([80_000], np.int32), 255)),
            r"'count'.*comparison reaches.*24 bits",
        ),
        (
            _count_program(
                Count("count", "v", np.array([9], np.int32), 1),
                weight=127,
                shift=8,
                levels=300,
                widths=Widths(potential=26),
            ),
            r"'v'.*24-bit state",
        ),
    ],
)
def test_limits_are_refused_by_name(program: Program, message: str) -> None:
    with pytest.raises(LossyConversionError, match=message):
        lava_constraints.check(lava_stock.lower(program))
    bad = [row for row in lava_constraints.constraints(program) if row.status == "error"]
    assert bad and all(row.reason for row in bad)


def test_a_loop_has_no_lag_in_the_report() -> None:
    rows = lava_constraints.constraints(_recurrent_program())
    assert [(r.node, r.status, r.lag) for r in rows if r.node == "back" and r.role == "value"] == [
        ("back", "error", None)
    ]


# ------------------------------------------------------------------------------------ worker life cycle


def test_importing_the_backend_imports_neither_lava_nor_torch() -> None:
    code = "import sys, nsllm_nir.exporters.lava; sys.exit(any(m in sys.modules for m in ('lava', 'torch', 'scipy')))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("backend", [lava.fused, lava.stock])
def test_missing_lava_names_the_command(monkeypatch: pytest.MonkeyPatch, random_program: Build, backend: Any) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    for call in (backend.version, lambda: backend.compile(random_program(0))):
        with pytest.raises(
            ToolNotFoundError, match=r"pip install --no-deps --ignore-requires-python lava-nc==0\.10\.0"
        ):
            call()


@needs_lava
@pytest.mark.parametrize("victim", ["worker", "lava process"])
def test_a_killed_worker_is_a_clean_error(random_program: Build, tokens: np.ndarray, clean: None, victim: str) -> None:
    inputs, start = _one_hot(tokens), 0.0
    with (
        pytest.raises(BackendError, match=r"Lava worker ended"),
        lava.fused.compile(random_program(0)).open() as session,
    ):
        leader = session.worker.process.pid
        session.step(inputs[0])
        others = [pid for pid in processes.members(leader) if pid != leader]
        start = time.monotonic()
        os.kill(leader if victim == "worker" else max(others), signal.SIGKILL)
        for row in inputs:
            session.step(row)
    assert time.monotonic() - start < 5
    assert not processes.members(leader)


@needs_lava
def test_an_error_in_a_process_model_is_reported(
    random_program: Build, clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable = lava.stock.compile(random_program(0))
    original = lava_network.job

    def broken(network: lava_network.Network) -> Any:
        job, arrays = original(network)
        return job, {**arrays, "traced": arrays["traced"] + network.sizes["graded"]}

    monkeypatch.setattr(lava_network, "job", broken)
    start = time.monotonic()
    with pytest.raises(BackendError, match=r"(?s)process model PyFileSink.*IndexError"):
        executable.run(_one_hot(np.arange(4)))
    assert time.monotonic() - start < 20


@needs_lava
def test_an_error_while_building_is_reported(
    random_program: Build, clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable = lava.stock.compile(random_program(0))
    monkeypatch.setattr(
        lava_network, "job", lambda network: ({"kind": "stock", "sizes": {}, "synapses": []}, {"traced": np.zeros(1)})
    )
    with pytest.raises(BackendError, match=r"(?s)Lava worker ended.*KeyError"):
        executable.run(_one_hot(np.arange(4)))


@needs_lava
def test_a_start_that_takes_too_long_is_ended(random_program: Build, clean: None) -> None:
    with pytest.raises(BackendError, match=r"did not answer within 0.05 s"):
        replace(lava.fused, timeout_seconds=0.05).compile(random_program(0)).run(_one_hot(np.arange(4)))


@needs_lava
def test_a_hanging_worker_is_ended(random_program: Build, clean: None) -> None:
    with (
        pytest.raises(BackendError, match=r"did not answer within 3 s"),
        replace(lava.fused, timeout_seconds=3.0).compile(random_program(0)).open() as session,
    ):
        leader = session.worker.process.pid
        os.killpg(leader, signal.SIGSTOP)
        session.step(_one_hot(np.arange(1))[0])
    assert not processes.members(leader)


PARENT = """
import sys, time
import numpy as np
from nsllm_nir.exporters import lava
from nsllm_nir.program import Input, Linear, Program
zero = np.zeros(1, np.int32)
program = Program((Input("x", 1), Linear("y", "x", np.ones((1, 1), np.int8), zero, zero.astype(np.uint8))), ("y",))
with lava.fused.compile(program).open() as session:
    session.step(np.ones(1, np.int64))
    print(session.worker.process.pid, flush=True)
    time.sleep(60)
"""


@needs_lava
def test_the_worker_ends_with_its_caller_and_leaves_no_file(clean: None) -> None:
    folder = tempfile.mkdtemp()
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": folder}, text=True
    ) as parent:
        assert parent.stdout is not None
        leader = int(parent.stdout.readline())
        assert len(processes.members(leader)) > 3
        parent.kill()
    _until(lambda: not processes.members(leader), "the worker outlived its caller")
    Path(folder).rmdir()  # fails unless it is empty


@needs_lava
def test_an_exception_in_a_session_ends_the_worker(random_program: Build, clean: None) -> None:
    with pytest.raises(ZeroDivisionError), lava.fused.compile(random_program(0)).open() as session:
        leader = session.worker.process.pid
        raise ZeroDivisionError
    assert not processes.members(leader)


@needs_lava
def test_a_long_temporary_path_is_refused(
    random_program: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(BackendError, match="TMPDIR"):
        lava.fused.compile(random_program(0)).run(_one_hot(np.arange(4)))


def test_too_little_shared_memory_is_refused() -> None:
    with pytest.raises(BackendError, match=r"shared memory.*--shm-size"):
        lava_client.check_shared_memory(1 << 60)
