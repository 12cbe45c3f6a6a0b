"""Reads the `forward` of a network of snnTorch neurons: which layer reads which, within one step of time.

The forward is recorded with symbols in place of data (`tracing`). A loop over steps is recorded step by step and
accepted if all steps are the same.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import snntorch as snn
import torch
from torch import fx, nn
from torch.nn import functional

from nsllm_nir.errors import GraphError, InputError
from nsllm_nir.snntorch_network.tracing import (
    BATCH,
    ONE_STEP,
    STATES,
    Shape,
    TimeAxis,
    Tracer,
    is_layer,
    outputs_of,
    record,
    shape_of,
    time_axis_of,
)

INPUT = ""  # the name under which layers read the network's input
FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    torch.flatten: lambda start_dim=0, end_dim=-1: nn.Flatten(start_dim, end_dim),
    "flatten": lambda start_dim=0, end_dim=-1: nn.Flatten(start_dim, end_dim),
    functional.avg_pool2d: nn.AvgPool2d,
    functional.max_pool2d: nn.MaxPool2d,
    functional.dropout: lambda p=0.5, training=True, inplace=False: nn.Dropout(p).train(training),
}
ADDITIONS = (operator.add, operator.iadd, torch.add, "add")
RESHAPES = (torch.reshape, "view", "reshape")
UNCHANGED = ("detach", "contiguous")
ZEROS = (torch.zeros_like, "new_zeros")


@dataclass(frozen=True)
class Layer:
    """A module in use: the node's name, what it reads (their sum), and its shapes without batch."""

    name: str
    module: nn.Module
    reads: tuple[str, ...]
    shape: Shape
    out: Shape


@dataclass(frozen=True)
class Network:
    """Layers of one step in execution order, the layers whose values the forward returns, and how to call it.

    time_axis: axis of the input over which the forward loops; None if it takes one step's input. steps: recorded steps
    per call, 1 without a loop. states: for each state argument, the place of the new state among the returned values.
    """

    layers: tuple[Layer, ...]
    outputs: tuple[tuple[str, ...], ...]
    time_axis: int | None
    steps: int
    states: dict[str, int] = field(default_factory=dict)


def read_forward(model: nn.Module, input_shape: Shape) -> Network:
    """The network that ``model`` computes in one step on inputs of ``input_shape`` (no batch, no time).

    The model is called, and constants may be attached to it: give a copy.

    Raises:
        GraphError: a forward that cannot be read without data, or steps of a loop that differ.
        InputError: the shape does not fit.
    """
    try:
        trace = _Trace(model, input_shape, None)
    except TimeAxis as found:
        trace = _Trace(model, input_shape, found.axis)
    return trace.network()


def leaves(value: Any, *, trains: bool = False) -> Iterator[Any]:
    """What a forward returned, out of its tuples, dictionaries and lists.

    ``trains``: a list of one symbol per step is one value.
    """
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, list) and not (
        trains and all(isinstance(each, fx.Node) and each.target is not torch.stack for each in value)
    ):
        value = tuple(value)
    if isinstance(value, tuple):
        for each in value:
            yield from leaves(each, trains=trains)
    else:
        yield value


class _Trace:
    """A recorded forward, its neuron calls in order, and its arguments."""

    def __init__(self, model: nn.Module, input_shape: Shape, time_axis: int | None) -> None:
        self.model, self.time_axis, self.name = model, time_axis, f"{type(model).__name__}.forward"
        tracer = Tracer(input_shape, time_axis)
        self.graph = record(model, tracer)
        if tracer.input is None:
            raise GraphError(f"{self.name} takes no input; {ONE_STEP}")
        self.input, self.modules = tracer.input, dict(model.named_modules())
        self.calls: dict[str, list[fx.Node]] = {}
        for node in self.graph.nodes:
            if node.op == "call_method" and str(node.target).endswith("_"):
                raise GraphError(
                    f"{self.name} changes a tensor in place with `{node.target}`; use the form that returns a new one"
                )
            if node.op == "call_module" and type(self.modules[node.target]) in STATES:
                self.calls.setdefault(node.target, []).append(node)
        self.made: dict[str, nn.Module] = {}
        counts = {path: len(nodes) for path, nodes in self.calls.items()}
        self.count = max(counts.values(), default=1)
        other = next((path for path, n in counts.items() if n != self.count), None)
        if other is not None:
            raise GraphError(
                f"{other}: called {counts[other]} times, another neuron {self.count} times; one neuron layer runs "
                f"once per step, {ONE_STEP}"
            )
        (returned,) = next(node for node in self.graph.nodes if node.op == "output").args
        self.returned = list(leaves(returned, trains=self.count > 1))

    def network(self) -> Network:
        """The network of one step, after checking that all steps are that step.

        Raises:
            GraphError: steps that differ, or values that are no layers of a step.
        """
        count = self.count
        if count == 1 and self.time_axis is not None:
            raise GraphError(f"{self.name} reads only one step of its input; {ONE_STEP}")
        steps = [_Step(self, t) for t in range(count)]
        for t, step in enumerate(steps):
            if step.layers != steps[0].layers:
                pairs = zip(step.layers, steps[0].layers, strict=False)
                name = next((a.name for a, b in pairs if a != b), step.layers[-1].name)
                raise GraphError(
                    f"{name}: step {t} of the loop differs from step 0; all steps must be the same, or {ONE_STEP}"
                )
        outputs = [self._output(value, steps) for value in self.returned]
        states = self._states() if count == 1 else {}
        return Network(tuple(steps[0].layers), tuple(o for o in outputs if o), self.time_axis, count, states)

    def _output(self, value: Any, steps: list[_Step]) -> tuple[str, ...]:
        """The layers whose sum a returned value is; nothing for states."""
        if len(steps) > 1 and isinstance(value, fx.Node) and value.target is torch.stack:
            value = value.args[0] if value.args else value.kwargs["tensors"]
        if value is None or (len(steps) > 1 and self.is_state(value, -1)):
            return ()
        train = value if isinstance(value, list) else [value]
        if not all(isinstance(node, fx.Node) for node in train):
            raise GraphError(
                f"{self.name} returns {value}, which is neither a spike train nor a state; return those only"
            )
        if len(train) != len(steps):
            raise GraphError(
                f"{self.name} returns {train[-1]}, not one value per step; collect every step of a neuron in a list "
                "and return its torch.stack"
            )
        found = [step.returned(node) for step, node in zip(steps, train, strict=True)]
        if any(each != found[0] for each in found):
            raise GraphError(
                f"{self.name}: a returned list holds {found[0]} in step 0 but not in every step; return one per list"
            )
        return found[0]

    def _states(self) -> dict[str, int]:
        """The place of the new state among the returned values, for every argument that is a state; one step."""
        found: dict[str, int] = {}
        for path, (call,) in self.calls.items():
            names = outputs_of(self.modules[path])
            for state, node in call.kwargs.items():
                if node is None:
                    continue
                if (
                    not isinstance(node, fx.Node)
                    or node.op != "placeholder"
                    or node is self.input
                    or len(node.users) > 1
                ):
                    raise GraphError(
                        f"{path}: its {state} must be an argument of forward that nothing else reads, or use "
                        "init_hidden=True"
                    )
                new = (i for i, value in enumerate(self.returned) if self._is_output(value, call, names.index(state)))
                place = next(new, None)
                if place is None:
                    raise GraphError(
                        f"{path}: forward takes its {state} {node.target!r} but does not return the new one; return "
                        "it, or use init_hidden=True"
                    )
                found[str(node.target)] = place
        return found

    def is_previous(self, value: Any, path: str, step: int, state: str) -> bool:
        """Whether ``value`` is this state of the neuron after the step before."""
        return self._is_output(value, self.calls[path][step - 1], outputs_of(self.modules[path]).index(state))

    def is_state(self, value: Any, step: int) -> bool:
        """Whether ``value`` is a state, other than spikes, of a neuron after ``step``."""
        indices = range(1, 1 + max(map(len, STATES.values())))
        return any(self._is_output(value, nodes[step], i) for nodes in self.calls.values() for i in indices)

    @staticmethod
    def _is_output(value: Any, call: fx.Node, index: int) -> bool:
        while isinstance(value, fx.Node) and value.op == "call_method" and value.target in UNCHANGED:
            value = value.args[0]
        return isinstance(value, fx.Node) and value.target is operator.getitem and value.args == (call, index)

    def is_zero(self, node: fx.Node) -> bool:
        """Whether a value is a tensor of zeros by its making."""
        if node.op == "get_attr":
            return not operator.attrgetter(str(node.target))(self.model).any()
        return node.op != "call_module" and node.target in ZEROS

    def function(self, node: fx.Node) -> nn.Module | None:
        """The layer that a function call stands for; equal calls give the same module."""
        make = FUNCTIONS.get(node.target)
        if make is None:
            return None
        options = {name: value for name, value in node.kwargs.items() if name != "input"}
        key = repr((str(node.target), node.args[1:], sorted(options.items())))
        if key not in self.made:
            self.made[key] = make(*node.args[1:], **options)
        return self.made[key]


class _Step:
    """The layers that step ``t`` runs, found from its neurons backwards."""

    def __init__(self, trace: _Trace, t: int) -> None:
        self.trace, self.t = trace, t
        self.layers: list[Layer] = []
        self.names: set[str] = set()
        self.known: dict[fx.Node, tuple[str, ...]] = {}
        for path, nodes in trace.calls.items():
            self._check_states(path, nodes[t])
        for node in trace.graph.nodes:
            if node.op == "call_module" and node in trace.calls.get(str(node.target), [])[t : t + 1]:
                self._add(str(node.target), trace.modules[str(node.target)], node)
        for value in trace.returned if trace.count == 1 else ():
            if isinstance(value, fx.Node):
                self.returned(value)

    def returned(self, node: fx.Node) -> tuple[str, ...]:
        """The layers whose sum a returned value is; nothing for a state of this step."""
        return () if self.trace.is_state(node, self.t) else self.value(node)

    def _check_states(self, path: str, call: fx.Node) -> None:
        """In a loop: silent at first, then what the neuron itself returned in the step before."""
        for state, node in call.kwargs.items():
            if node is None:
                continue
            if state not in STATES[type(self.trace.modules[path])]:
                raise GraphError(f"{path}: unknown argument {state!r}")
            zero = isinstance(node, fx.Node) and self.trace.is_zero(node)
            if self.trace.count == 1 and zero:
                raise GraphError(
                    f"{path}: its {state} starts at zero in every call, and one call is one step; make it an "
                    "argument, or use init_hidden=True"
                )
            if self.trace.count > 1 and not (
                zero if self.t == 0 else self.trace.is_previous(node, path, self.t, state)
            ):
                raise GraphError(
                    f"{path}: in step {self.t} its {state} is not its own of the step before, or zero at first; "
                    f"{ONE_STEP}"
                )

    def value(self, node: Any) -> tuple[str, ...]:
        """The layers whose sum ``node`` is."""
        if node not in self.known:
            self.known[node] = self._value(node)
        return self.known[node]

    def _value(self, node: fx.Node) -> tuple[str, ...]:
        trace = self.trace
        if node is trace.input and trace.time_axis is None:
            return (INPUT,)
        if node.op == "placeholder":
            what = (
                "a whole sequence at once: read x[step] first"
                if node is trace.input
                else "a state: only its neuron may read it"
            )
            raise GraphError(f"{trace.name} uses its argument {node.target!r} as {what}; {ONE_STEP}")
        if node.op == "call_module":
            return self._add(str(node.target), trace.modules[str(node.target)], node)
        if node.target is operator.getitem:
            return self._item(*node.args)
        if (
            node.target in ADDITIONS
            and len(node.args) == 2
            and not node.kwargs
            and all(isinstance(a, fx.Node) for a in node.args)
        ):
            return self._sum(node)
        if node.target in UNCHANGED:
            return self.value(node.args[0])
        module, name = trace.function(node), str(getattr(node.target, "__name__", node.target))
        if module is None and node.target in RESHAPES:
            module = self._reshape(node)
        if module is None:
            shown = f"`{name}`" if node.op != "get_attr" else f"the tensor {node.target!r}"
            raise GraphError(
                f"{trace.name} uses {shown}, which has no NIR form; use layers, neurons, flatten, pooling and `+`"
            )
        return self._add(name, module, node)

    def _item(self, source: Any, index: Any) -> tuple[str, ...]:
        if source is self.trace.input and time_axis_of(index) == self.trace.time_axis:
            step = index if isinstance(index, int) else next(i for i in index if isinstance(i, int))
            if step != self.t:
                raise GraphError(
                    f"{self.trace.name} reads input step {step} in step {self.t}; steps must come in order, {ONE_STEP}"
                )
            return (INPUT,)
        path = str(source.target)
        if source.op != "call_module" or path not in self.trace.calls:
            raise GraphError(
                f"{self.trace.name} takes the part {index} of {source}; NIR has no slices, give that layer its own "
                "module"
            )
        if index != 0:
            raise GraphError(
                f"{path}: its {outputs_of(self.trace.modules[path])[index]} is used as a signal; only spikes leave a "
                "neuron, use an own layer"
            )
        if source is not self.trace.calls[path][self.t]:
            raise GraphError(
                f"{path}: its spikes are read in another step; use snn.RLeaky or snn.RSynaptic for recurrence"
            )
        return (path,)

    def _sum(self, node: fx.Node) -> tuple[str, ...]:
        reads = [self.value(each) for each in node.args]
        first, second = (shape_of(each)[1:] for each in node.args)
        if first != second:
            raise GraphError(f"{self.trace.name} adds shapes {first} and {second}; NIR sums signals of one shape only")
        return reads[0] + reads[1]

    def _reshape(self, node: fx.Node) -> nn.Module | None:
        """A reshape that flattens everything behind the batch is `Flatten`, one that changes nothing is nothing."""
        before, after = shape_of(node.args[0]), shape_of(node)
        kind = "identity" if before == after else "flatten" if after == (before[0], math.prod(before[1:])) else ""
        made = {"identity": nn.Identity, "flatten": nn.Flatten}
        return self.trace.made.setdefault(kind, made[kind]()) if kind else None

    def _add(self, base: str, module: nn.Module, node: fx.Node) -> tuple[str, ...]:
        """A layer called ``base``, or ``base.2`` and so on where that is in use, or is another module."""
        source = node.args[0] if node.args else node.kwargs["input"]
        reads, shapes = self.value(source), (shape_of(source), shape_of(node))
        if any(not shape or shape[0] != BATCH for shape in shapes):
            raise GraphError(f"{base}: it changes the first dimension, which is the batch; flatten from dimension 1")
        names = itertools.chain([base], (f"{base}.{i}" for i in itertools.count(2)))
        others = self.trace.modules.keys() - ({base} if node.op == "call_module" else set())
        name = next(name for name in names if name not in self.names and name not in others)
        self.names.add(name)
        self.layers.append(Layer(name, module, reads, shapes[0][1:], shapes[1][1:]))
        return (name,)


def first_shape(model: nn.Module) -> Shape:
    """Shape of one step's input where the first layer with weights says it: Linear and LeakyParallel.

    Raises:
        InputError: another layer comes first.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            return (module.in_features,)
        if isinstance(module, snn.LeakyParallel):
            return (module.rnn.input_size,)
        if is_layer(module) and next(module.parameters(), None) is not None:
            raise InputError(
                f"{name or type(model).__name__}: give input_shape=(...), the shape of one step's input without batch "
                "and time"
            )
    raise InputError(
        f"{type(model).__name__}: give input_shape=(...), the shape of one step's input without batch and time"
    )
