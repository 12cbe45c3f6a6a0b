"""The cost model: cycles and beats against the simulated engine, sensitivity, the estimate of a board, the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nir
import numpy as np
import pytest
from typer.testing import CliRunner

from nsllm_nir.cli.main import app
from nsllm_nir.errors import InputError, LossyConversionError, NsllmNirError
from nsllm_nir.exporters import image as images
from nsllm_nir.exporters import rtl
from nsllm_nir.graph import DT
from nsllm_nir.hw import boards, cost_model, toolchain
from nsllm_nir.hw.cost_model import Setting
from nsllm_nir.hw.estimate import Estimate, configured, setting
from nsllm_nir.hw.estimate import estimate as estimate_image
from nsllm_nir.hw.simulated_bus import Surroundings
from nsllm_nir.hw.token_work import Pass, Work, profile
from nsllm_nir.program import Conv2d, Count, Input, Lif, Linear, Program, Widths, reference

VCK190 = boards.load("vck190")
PLACE = Setting(toolchain.RTL_BUILD)


def layer(inputs: int, outputs: int, top: int, levels: int = 1) -> Program:
    rng = np.random.default_rng(inputs + outputs)
    weight = rng.integers(-top - 1, top + 1, (outputs, inputs)).astype(np.int8)
    weight[0, 0] = -top - 1
    op = Linear("linear", "input", weight, rng.integers(-9, 9, outputs), rng.integers(0, 2, outputs))
    return Program((Input("input", inputs, levels), op), ("linear",))


def image() -> Program:
    """A convolution with groups and stride, LIF neurons, counts of a wide source."""
    rng = np.random.default_rng(3)
    weight, bias = rng.integers(-8, 8, (6, 2, 3, 3)).astype(np.int8), rng.integers(-9, 9, 6)
    conv = Conv2d("conv", "input", weight, bias, np.zeros(6, np.uint8), (4, 6, 5), (2, 1), (1, 1), (1, 1), 2)
    lif = Lif(
        "lif",
        "conv",
        rng.integers(99, 4000, 90),
        rng.integers(99, 4000, 90),
        rng.integers(9, 99, 90),
        rng.integers(-9, 9, 90),
    )
    count = Count("count", "conv", rng.integers(3, 9, 90), 7, signed=True)
    return Program((Input("input", 120, 2), conv, lif, count), ("lif", "count"), Widths(32, 32))


def spikes(program: Program, rate: float, tokens: int = 3) -> np.ndarray:
    node, rng = program.inputs[0], np.random.default_rng(5)
    return rng.integers(1, node.levels + 1, (tokens, node.size)) * (rng.random((tokens, node.size)) < rate)


def estimate(program: Program, given: np.ndarray, board: boards.Board) -> Estimate:
    return estimate_image(program, images.pack_image(program, board.engine.beat_words), given, board)


CASES = [
    (layer(900, 777, 1), 0.05, (20, 1)),
    (layer(300, 260, 127, 30), 0.3, (45, 2)),
    (layer(70, 1500, 7, 3), 0.2, (100, 1)),
    (image(), 0.2, (25, 1)),
]


@pytest.mark.parametrize(("program", "rate", "memory"), CASES, ids=["sparse", "graded", "tiles", "image"])
def test_cycles_and_beats_are_those_of_the_simulated_engine(
    program: Program, rate: float, memory: tuple[int, int]
) -> None:
    check(program, spikes(program, rate), memory)


def test_cycles_of_a_random_network(random_program: Callable[..., Program]) -> None:
    program = random_program(3, layers=2, width=40, levels=5)
    check(program, reference.one_hot([3, 1, 4, 1], 16), (30, 1))


def check(program: Program, given: np.ndarray, memory: tuple[int, int]) -> None:
    """Modelled and simulated: equal beats, cycles of each token within 5 %."""
    surroundings = Surroundings(latency=memory[0], interval=memory[1])
    executable = rtl.Executable(
        program, images.pack_image(program, PLACE.sizes.beat_words), toolchain.build_rtl(), surroundings
    )
    executable.run(given)
    assert executable.cycles is not None
    where, units = replace(PLACE, latency=float(memory[0]), interval=float(memory[1])), cost_model.unit_costs()
    works = profile(program, given, PLACE.sizes.ports)
    assert [sum(cost_model.beats(work, where) for work in token) for token in works] == executable.cycles.beats.tolist()
    modelled = [
        sum(cost_model.op_cycles(token, where, units)) + cost_model.token_cycles(program, token, units, traced=True)
        for token in works
    ]
    np.testing.assert_allclose(modelled, executable.cycles.total, rtol=0.05)


def linear(events: float, count: float = 1.0) -> Work:
    part = Pass(events, events * count, 0, (16, min(256.0, events), events))
    return Work("linear", "Linear", 512, words=1, bytes=1, outputs=512, source=1024, weight_bits=2, passes=(part,))


def cycles(work: Work, where: Setting = PLACE) -> float:
    return cost_model.cycles(work, where, cost_model.unit_costs())


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ((linear(50), PLACE), (linear(51), PLACE)),
        ((linear(50), PLACE), (linear(50, count=2), PLACE)),
        ((linear(50), PLACE), (linear(50), replace(PLACE, latency=40.0))),
        ((linear(500), PLACE), (linear(500), replace(PLACE, interval=1.5))),
        ((linear(500), replace(PLACE, sizes=replace(PLACE.sizes, lanes=256))), (linear(500), PLACE)),
        ((Work("c", "Count", 64, steps=20), PLACE), (Work("c", "Count", 64, steps=21), PLACE)),
        ((Work("l", "Lif", 64), PLACE), (Work("l", "Lif", 68), PLACE)),
    ],
)
def test_more_work_or_a_slower_memory_costs_more(less: tuple[Work, Setting], more: tuple[Work, Setting]) -> None:
    assert cycles(*less) < cycles(*more)


def test_the_work_of_a_linear_is_that_of_its_spikes() -> None:
    program = layer(130, 10, 1, 40)
    given = np.zeros((1, 130), np.int64)
    given[0, [0, 5, 129]] = (3, 16, 33)  # digits: 3 + 1 in the first pass, 1 + 2 in the second
    (_, work), *_ = profile(program, given, 4)
    assert [(part.events, part.digits) for part in work.passes] == [(2, 4), (2, 3)]
    assert work.passes[0].scan == (3, 3, 2 + 1 + 2) and work.passes[1].scan == (3, 3, 3)


def test_an_estimate_adds_up() -> None:
    program = layer(900, 777, 1)
    found = estimate(program, spikes(program, 0.05), VCK190)
    assert 0 < sum(op.cycles for op in found.ops) < found.cycles
    assert found.tokens_per_second == pytest.approx(250e6 / found.cycles)
    assert found.work["memory_byte"] == found.bytes and found.bytes % 64 != 1
    assert found.dynamic is not None and VCK190.power is not None and found.static is None
    for name, value in found.dynamic.items():
        assert value == pytest.approx(found.work[name] * VCK190.power.picojoules[name] * 1e-12) and value > 0
    powered = replace(VCK190, power=replace(VCK190.power, static=2.0))
    assert estimate(program, spikes(program, 0.05), powered).static == pytest.approx(2 * found.cycles / 250e6)
    denser = estimate(program, spikes(program, 0.2), VCK190)
    assert denser.cycles > found.cycles and sum(denser.dynamic.values()) > sum(found.dynamic.values())  # type: ignore[union-attr]


def test_a_slower_clock_has_fewer_cycles_of_latency_and_bandwidth_sets_the_interval() -> None:
    slow = configured(VCK190, clock_mhz=125)
    assert slow.memory.latency == 25 and setting(slow).interval == 1
    narrow = replace(VCK190, memory=replace(VCK190.memory, bandwidth=4e9, efficiency=0.8))
    assert setting(narrow).interval == pytest.approx(64 * 250e6 / 3.2e9)


@pytest.mark.parametrize(
    "options", [{"lanes": 100}, {"lanes": 64}, {"ports": 5}, {"clock_mhz": 0.0}, {"clock_mhz": float("nan")}]
)
def test_a_build_that_cannot_be_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError):
        configured(VCK190, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("board", "limit"),
    [
        (replace(VCK190, engine=replace(VCK190.engine, signal_words=64)), "SIGNALS_TOO_SMALL"),
        (replace(VCK190, engine=replace(VCK190.engine, queue_words=64)), "QUEUE_TOO_SMALL"),
        (
            replace(VCK190, memory=replace(VCK190.memory, words=100)),
            "vck190: the program image has 2,564 words, the external memory of this board 100",
        ),
    ],
)
def test_a_program_that_does_not_fit_names_the_limit(board: boards.Board, limit: str) -> None:
    program = layer(130, 200, 1)
    with pytest.raises(LossyConversionError, match=limit):
        estimate(program, spikes(program, 0.1), board)


def test_a_board_without_a_figure_that_is_needed_is_refused() -> None:
    program = layer(130, 200, 1)
    assert VCK190.power is not None
    with pytest.raises(InputError, match="on_chip_byte"):
        estimate(
            program,
            spikes(program, 0.1),
            replace(VCK190, power=replace(VCK190.power, picojoules={"addition": 1.0, "memory_byte": 1.0})),
        )
    assert estimate(program, spikes(program, 0.1), replace(VCK190, power=None)).dynamic is None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cost") / "model.nir"
    lif = nir.LIF(*(np.full(12, value) for value in (4 * DT, 1.0, 0.0, 9.0)), np.zeros(12))
    weight = np.random.default_rng(0).integers(-9, 20, (12, 30)).astype(float)
    nir.write(
        str(path),
        nir.NIRGraph.from_list(nir.Input(np.array([30])), nir.Linear(weight), lif, nir.Output(np.array([12]))),
    )
    return path


def test_the_command_prints_tables_and_writes_json(model: Path, tmp_path: Path) -> None:
    command = [
        "estimate",
        str(model),
        "--board",
        "vck190",
        "--random",
        "0.3",
        "--steps",
        "6",
        "--lanes",
        "128",
        "--ports",
        "8",
        "--clock",
        "200",
    ]
    result = CliRunner().invoke(app, [*command, "--all-nodes", "--json", str(tmp_path / "cost.json")])
    assert result.exit_code == 0, result.output
    assert (
        "tokens per second" in result.stdout
        and "modelled" in result.stdout
        and "no power was measured" in result.stdout
    )
    found = json.loads((tmp_path / "cost.json").read_text())
    assert found["tier"] == "modelled" and found["lanes"] == 128 and found["clock_mhz"] == 200 and found["tokens"] == 6
    assert found["tokens_per_second"] == pytest.approx(200e6 / found["cycles"])
    assert (
        found["joules_per_token"]["dynamic"] == pytest.approx(sum(found["dynamic"].values()))
        and found["joules_per_token"]["static"] is None
    )
    assert {op["kind"] for op in found["ops"]} >= {"Input", "Linear"} and all(
        op["name"] in result.stdout for op in found["ops"]
    )


def test_the_command_refuses_an_unknown_board(model: Path) -> None:
    result = CliRunner().invoke(app, ["estimate", str(model), "--board", "vck191", "--random", "0.3"])
    assert isinstance(result.exception, NsllmNirError) and "known are" in str(result.exception)
