"""What stands in several places and no type checker sees: all tables know every operation, node, backend and family."""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from nsllm_nir import exporters, to_portable, verify
from nsllm_nir.errors import LossyConversionError
from nsllm_nir.exporters import image, lava_constraints, lava_stock
from nsllm_nir.exporters.lava_worker import job as jobs
from nsllm_nir.exporters.lava_worker.engine import Engine
from nsllm_nir.graph import DT, NODE_KINDS, Graph, Node, read, write
from nsllm_nir.graph.time_step import at_time_step
from nsllm_nir.hw import boards, cost_model, estimate, families, generated_files, toolchain
from nsllm_nir.hw.instruction_set import CHANNELS, INSTRUCTIONS, JOBS, Instruction, Kind, channel
from nsllm_nir.hw.synthesis import Area
from nsllm_nir.lowering.lower import why_not_integer
from nsllm_nir.lowering.net import inline
from nsllm_nir.lowering.node_rules import RULES
from nsllm_nir.program import OPERATIONS, Count, Input, Op, Program, operations, reference
from nsllm_nir.program.probe import probe_program
from nsllm_nir.program.signals import Signal
from nsllm_nir.quantization.float_nodes import ROLES
from nsllm_nir.verification.support_matrix import PROBES

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SPIKES = np.random.default_rng(0).integers(0, 2, (30, 4))


def subclasses(kind: type) -> set[type]:
    children: list[type] = kind.__subclasses__()
    return {kind, *(found for child in children for found in subclasses(child))}


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


# --- the spike engine


def test_generated_files_are_up_to_date() -> None:
    for path, text in generated_files.generated().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.name} differs from what it is made of; run: python -m nsllm_nir.hw.generated_files"
        )


def test_every_operation_has_an_instruction() -> None:
    assert [instruction.op for instruction in INSTRUCTIONS] == sorted(
        OPERATIONS, key=lambda op: Kind[op.__name__.upper()]
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
    assert set(cost_model.unit_costs()) == {op.__name__ for op in OPERATIONS} | {"queue", "token", "synapses"}


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
    known = re.findall(r"instruction_set::JOB_(\w+)", vector_unit)
    assert {*known} == {*JOBS}, "jobs that vector_unit.sv knows, and those of the instructions"
    kinds = re.findall(r"instruction_set::KIND_(\w+)", sequencer)
    assert {i.kind.name for i in INSTRUCTIONS if not i.job} <= {*kinds}, "sequencer.sv starts no unit for a kind"


# --- backends -----------

# {name: "module:object"}; of this folder, whatever is installed
REGISTERED: dict[str, str] = PROJECT["entry-points"][exporters.GROUP]


def registered(name: str) -> exporters.Backend:
    module, _, attribute = REGISTERED[name].partition(":")
    found: exporters.Backend = getattr(import_module(module), attribute)
    return found


def defined() -> Iterator[str]:
    """Every object of a module of ``exporters`` that says what backend it is."""
    for path in (ROOT / "exporters").glob("*.py"):
        if path.stem != "__init__":
            module = import_module(f"nsllm_nir.exporters.{path.stem}")
            yield from (
                f"{module.__name__}:{name}"
                for name, value in vars(module).items()
                if not isinstance(value, type) and isinstance(getattr(value, "about", None), exporters.About)
            )


def test_every_backend_is_registered_and_every_registered_backend_is_there() -> None:
    assert set(defined()) == set(REGISTERED.values())
    assert {registered(name).name: name for name in REGISTERED} == {name: name for name in REGISTERED}


@pytest.mark.parametrize("name", REGISTERED)
def test_every_backend_says_what_it_is(name: str) -> None:
    about = registered(name).about
    assert about.runs and about.holds and about.needs and "|" not in about.runs + about.holds + about.needs
    assert not hasattr(registered(name), "tiny") or isinstance(registered(name), exporters.Buildable)


# --- FPGA families -----------


def packages_of_extras() -> set[str]:
    """Names of the packages that the optional dependencies pin."""
    pinned: list[Any] = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    return {line.partition("==")[0] for line in pinned}


def test_every_board_is_of_a_known_family_and_every_family_has_a_board() -> None:
    used = {boards.load(name).device.family for name in boards.names()}
    assert len(families.names()) >= 6
    for name in families.names():
        assert (name in used) != bool(families.load(name).no_board), (
            f"describe a board of the family {name} in hw/boards, or say in its `no_board` why there is none"
        )


@pytest.mark.parametrize("name", families.names())
def test_every_family_is_complete(name: str) -> None:
    family = families.load(name)
    assert set(family.cells) == {field.name for field in fields(Area)} - {"cells"}
    assert set(family.packages.values()) <= packages_of_extras(), "add the packages of its tools to pyproject.toml"
    if family.flow:
        assert family.flow.place in family.packages
    assert bool(family.flow) == bool(family.packages)


def test_every_tool_and_every_pll_is_of_a_family() -> None:
    known = [families.load(name) for name in families.names()]
    used = {package for family in known for package in family.packages.values()}
    assert {package for package in packages_of_extras() if package.startswith("yowasp-nextpnr")} <= used
    plls = {family.flow.pll.source for family in known if family.flow and family.flow.pll}
    assert plls == set(Path(families.__file__).parent.glob("*.sv")) and all(path.exists() for path in plls)


PORTS = {"Input", "Output"}


def test_every_stage_knows_every_node() -> None:
    """Declared in `graph`, lowered by a rule, with a role in quantization, and shown in the support matrix."""
    assert set(RULES) == set(NODE_KINDS) - PORTS
    assert set(ROLES) == set(NODE_KINDS)
    assert set(PROBES) >= set(RULES)


def example_graph(kind: str, gain: float) -> Graph:
    """Input, a Scale, the example of a node type, Output."""
    found = NODE_KINDS[kind].example
    shape = {"shape": np.array(found.shape)}
    nodes: dict[str, Node | Graph] = {
        "input": Node("Input", shape),
        "gain": Node("Scale", {"scale": np.full(found.shape, gain)}),
        "node": Node(kind, found.parameters),
        "output": Node("Output", shape),
    }
    return Graph(nodes, (("input", "gain"), ("gain", "node"), ("node", "output")))


@pytest.mark.parametrize("kind", sorted(set(NODE_KINDS) - PORTS))
def test_the_example_of_a_node_runs_from_file_to_comparison(kind: str, tmp_path: Path) -> None:
    """Integers as they are, floats quantized, and the same in steps of 1 ms; optional parameters may be missing."""
    declared = NODE_KINDS[kind]
    assert set(declared.example.parameters) == set(declared.parameters)
    rng = np.random.default_rng(1)
    inputs = (rng.random((20, int(np.prod(declared.example.shape)))) < 0.5).astype(np.int64)
    for gain, integer in ((3.0, kind != "AvgPool2d"), (3.7, False)):
        write(tmp_path / "node.nir", example_graph(kind, gain))
        graph = read(tmp_path / "node.nir")
        assert (why_not_integer(inline(graph)) == "") is integer
        report = verify(graph, inputs, ["reference"])
        assert report.exact and (report.quantization is None) is integer
        value = report.reference.values[report.program.outputs[-1]]
        assert value.min() < value.max(), "the example always gives the same"
        if report.quantization_error:
            assert report.quantization_error.differences == 0
        slow = at_time_step(graph, 1e-3)
        before, after = graph.nodes["node"], slow.nodes["node"]
        assert isinstance(before, Node) and isinstance(after, Node)
        changed = {name for name in declared.parameters if after.parameters[name] is not before.parameters[name]}
        assert changed == {*declared.seconds, *declared.per_second}
        assert str(verify(at_time_step(slow, DT * DT / 1e-3), inputs, ["reference"]).program) == str(report.program)
    bare = {name: value for name, value in declared.example.parameters.items() if name not in declared.optional}
    graph = example_graph(kind, 3.0)
    write(tmp_path / "bare.nir", Graph({**graph.nodes, "node": Node(kind, bare)}, graph.edges))
    assert verify(tmp_path / "bare.nir", inputs, ["reference"]).exact


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

    layers: Any = NSLLMForCausalLM(NSLLMConfig(hidden_size=8, num_hidden_layers=1, blocks=list(BLOCKS))).layers
    for part, block in layers[0].blocks():
        graph = block_graph(block.numbers())
        assert block_graph(block_numbers(graph, part)).edges == graph.edges
        (last,) = (a for a, b in graph.edges if b == "output")
        assert block.numbers().ops("", "input")[-1].name == last.removesuffix(".scale")
