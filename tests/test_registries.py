"""What stands in several places and no type checker sees: every table knows every operation, node, backend and family."""

from __future__ import annotations

import inspect
import re
import subprocess
from dataclasses import fields
from typing import get_args

import numpy as np
import pytest

from nsllm_nir.exporters import image
from nsllm_nir.hw import cost_model, estimate, generated_files, toolchain
from nsllm_nir.hw.instruction_set import CHANNELS, INSTRUCTIONS, JOBS, Instruction, Kind, channel
from nsllm_nir.program import Op, Signal

# --- the spike engine ---------------------------------------------------------------------------------------------------


def test_generated_files_are_up_to_date() -> None:
    for path, text in generated_files.generated().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.name} differs from what it is made of; run: python -m nsllm_nir.hw.generated_files"
        )


def test_every_operation_has_an_instruction() -> None:
    assert [instruction.op for instruction in INSTRUCTIONS] == sorted(
        get_args(Op), key=lambda op: Kind[op.__name__.upper()]
    )
    assert [instruction.kind for instruction in INSTRUCTIONS] == list(range(1, len(INSTRUCTIONS) + 1)), (
        "kinds are numbered from 1 without gaps: the engines compare with the last"
    )


def encoded_apart() -> set[str]:
    """Ops for which `pack_image` has a rule of its own."""
    return set(re.findall(r"case (\w+)\(\):", inspect.getsource(image._descriptor)))


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda instruction: instruction.op.__name__)
def test_every_field_of_an_operation_is_in_the_image(instruction: Instruction) -> None:
    if instruction.op.__name__ in encoded_apart():
        return
    stored = {constant.name for constant in instruction.constants} | {instruction.parameter}
    left = [field for field in fields(instruction.op) if field.name != "name" and field.name not in stored]
    assert [field.type for field in left] == ["str"] * len(instruction.signals), (
        f"{instruction.op.__name__}: its instruction does not say where {[field.name for field in left]} go"
    )


def test_additions_of_an_instruction_are_those_of_its_operation() -> None:
    """Where the energy follows from them alone."""
    counted = set(re.findall(r'"(\w+)"', inspect.getsource(estimate._units_of_work)))
    for instruction in INSTRUCTIONS:
        if instruction.op.__name__ not in counted:
            op = instruction.op.example("op", "spikes")
            hardware = op.hardware(Signal(4, np.zeros(4, np.int64), np.ones(4, np.int64), False))
            assert hardware["add"] == 4 * instruction.additions, instruction.op.__name__


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda instruction: instruction.op.__name__)
def test_constants_of_an_instruction_have_channels_of_their_own(instruction: Instruction) -> None:
    used = [channel(constant) for constant in instruction.constants]
    assert len({*used}) == len(used) and {*used} <= {*CHANNELS}


def test_the_cost_model_has_unit_costs_of_every_operation() -> None:
    assert set(cost_model.unit_costs()) == {op.__name__ for op in get_args(Op)} | {"queue", "token", "synapses"}


def test_the_cpp_engine_runs_every_operation() -> None:
    command = [toolchain.find_compiler(), "-std=c++17", "-fsyntax-only", *toolchain.WARNINGS]
    done = subprocess.run(
        [*command, str(toolchain.SOURCES / "top.cpp")], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_systemverilog_engine_runs_every_operation() -> None:
    vector_unit, sequencer = (
        (toolchain.RTL_SOURCES / f"{name}.sv").read_text(encoding="utf-8") for name in ("vector_unit", "sequencer")
    )
    jobs = re.findall(r"instruction_set::JOB_(\w+)", vector_unit)
    assert {*jobs} == {*JOBS}, "jobs that vector_unit.sv knows, and those of the instructions"
    kinds = re.findall(r"instruction_set::KIND_(\w+)", sequencer)
    assert {i.kind.name for i in INSTRUCTIONS if not i.job} <= {*kinds}, "sequencer.sv starts no unit for a kind"
