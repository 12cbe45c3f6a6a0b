"""What stands in several places and no type checker sees: all tables know every operation, node, backend and family."""

from __future__ import annotations

import json
import pkgutil
import re
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

from nsllm_nir import to_portable
from nsllm_nir.errors import LossyConversionError
from nsllm_nir.exporters import lava_constraints, lava_stock
from nsllm_nir.exporters.lava_worker import job as jobs
from nsllm_nir.exporters.lava_worker.engine import Engine
from nsllm_nir.program import OPERATIONS, Count, Input, Op, Program, operations, reference
from nsllm_nir.program.probe import probe_program

ROOT = Path(__file__).parent.parent
SPIKES = np.random.default_rng(0).integers(0, 2, (30, 4))


def subclasses(kind: type) -> set[type]:
    return {kind, *(found for child in kind.__subclasses__() for found in subclasses(child))}


def example(kind: type[Op]) -> Program:
    """The example of an operation, on an input."""
    if kind is Input:
        return Program((Input.example("in", ""),), ("in",))
    return Program((Input("in", 4), kind.example("op", "in")), ("op",))


def test_every_operation_is_in_the_closed_union_and_public() -> None:
    for module in pkgutil.iter_modules(operations.__path__):
        import_module(f"{operations.__name__}.{module.name}")
    found = subclasses(operations.Operation) - {operations.Operation}
    assert found == set(OPERATIONS) and len(OPERATIONS) >= 9
    assert {kind.__name__ for kind in OPERATIONS} <= set(operations.__all__)


def test_the_program_of_the_doctor_uses_every_operation_and_none_is_silent() -> None:
    program = probe_program()
    values = reference.run(program, SPIKES).values
    assert {type(op) for op in program.ops} == set(OPERATIONS)
    assert all(np.ptp(value) > 0 for value in values.values()), "a constant signal shows nothing"


@pytest.mark.parametrize("kind", OPERATIONS)
def test_an_operation_stays_in_its_interval_and_its_audit_is_of_the_allowed_kinds(kind: type[Op]) -> None:
    program = example(kind)
    signal, name = program.signals[program.outputs[0]], program.outputs[0]
    for row in reference.run(program, SPIKES).values[name]:
        assert (signal.low <= row).all() and (row <= signal.high).all()
    assert set(program.audit()[name]) <= {"add", "compare", "shift", "select", "move"}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_the_fused_lava_form_of_an_operation_is_the_reference(kind: type[Op]) -> None:
    """Also as a job, which is what reaches the worker, after a reset, and in blocks of any size."""
    program = example(kind)
    want = np.concatenate(list(reference.run(program, SPIKES).values.values()), axis=1)
    data, arrays = jobs.program_to_data(program)
    engine = Engine(jobs.program_from_data(json.loads(json.dumps(data)), arrays))
    for size in (len(SPIKES), 1, 7):
        blocks = [engine.run(SPIKES[first : first + size]) for first in range(0, len(SPIKES), size)]
        assert np.array_equal(np.concatenate(blocks), want)
        engine.reset()


@pytest.mark.parametrize("kind", OPERATIONS)
def test_stock_lava_lays_an_operation_out_or_refuses_it_by_name(kind: type[Op]) -> None:
    network = lava_stock.lower(example(kind))
    try:
        lava_constraints.check(network)
    except LossyConversionError as error:
        assert repr(network.program.outputs[0]) in str(error)


@pytest.mark.parametrize("kind", OPERATIONS)
def test_the_portable_profile_writes_an_operation_or_refuses_it_by_name(kind: type[Op], tmp_path: Path) -> None:
    try:
        to_portable(example(kind), tmp_path / "x.nir", one_hot=False)
    except LossyConversionError as error:
        assert str(error).startswith("'op': the portable profile has no form of a ")
        assert not list(tmp_path.iterdir())


def test_the_semantics_hold_a_row_for_every_operation() -> None:
    page = (ROOT / "docs" / "semantics.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == {kind.__name__ for kind in OPERATIONS}


def test_a_loop_through_any_operation_is_refused_unless_it_is_bounded() -> None:
    """`bounds` is what a loop rests on: the operations that state them hold them."""
    for kind in OPERATIONS:
        op = kind.example("op", "in")
        if op.bounds is not None:
            signal = Program((Input("in", 4), op), ("op",)).signals["op"]
            assert signal.spikes and (signal.low >= op.bounds[0]).all() and (signal.high <= op.bounds[1]).all()
    assert Count.example("c", "in").bounds == (0, 2)


def package_modules(package: str) -> set[str]:
    """Names of the modules in a folder of the package."""
    folder = Path(str(files(package)))
    return {path.stem for path in folder.glob("*.py") if path.stem != "__init__"}


def test_every_block_has_its_composite_and_its_module() -> None:
    """A block of a layer is a member of `BlockNumbers`, and a torch module, each in a file of its name."""
    from nsllm_nir.composites.registry import BLOCKS, COMPOSITES
    from nsllm_nir.language_model.blocks import block_class

    assert len(BLOCKS) >= 2
    assert package_modules("nsllm_nir.composites") == {
        kind.__module__.rpartition(".")[2] for kind in COMPOSITES.values()
    } | {
        "primitives",
        "registry",
    }
    assert package_modules("nsllm_nir.language_model.blocks") == {*BLOCKS, "base"}
    for part, kind in BLOCKS.items():
        assert kind.__module__ == f"nsllm_nir.composites.{part}"
        assert get_type_hints(block_class(part).numbers)["return"] is kind


def test_every_block_comes_back_from_its_primitives() -> None:
    """Torch module to integers to the subgraph, and back; operations end where the subgraph does."""
    from nsllm_nir import NSLLMConfig, NSLLMForCausalLM
    from nsllm_nir.composites.registry import BLOCKS, block_graph, block_numbers

    layers = NSLLMForCausalLM(NSLLMConfig(hidden_size=8, num_hidden_layers=1, blocks=list(BLOCKS))).layers
    for part, block in layers[0].blocks():
        graph = block_graph(block.numbers())
        assert block_graph(block_numbers(graph, part)).edges == graph.edges
        (last,) = (a for a, b in graph.edges if b == "output")
        assert block.numbers().ops("", "input")[-1].name == last.removesuffix(".scale")
