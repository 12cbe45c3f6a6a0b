"""Symbols in place of data: `torch.fx` records what a forward does with layers of torch and neurons of snnTorch.

Layers stay whole. Every value has a shape and no content, so that a forward that looks at data fails instead of being
guessed.
"""

from __future__ import annotations

import inspect
import operator
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import snntorch as snn
import torch
from torch import fx, nn

from nsllm_nir.errors import GraphError, InputError, LossyConversionError, NsllmNirError

Shape = tuple[int, ...]
STATES: dict[type[nn.Module], tuple[str, ...]] = {
    snn.Leaky: ("mem",),
    snn.Lapicque: ("mem",),
    snn.Synaptic: ("syn", "mem"),
    snn.RLeaky: ("spk", "mem"),
    snn.RSynaptic: ("spk", "syn", "mem"),
}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
UNCHANGING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.Flatten,
    *NORMS,
    *UNCHANGING,
    snn.LeakyParallel,
)
REMEDY = f"known are {', '.join(kind.__name__ for kind in (*LAYERS, *STATES))}"
REMEDIES = {
    "Alpha": "its two exponential filters are no NIR node; use snn.Synaptic",
    "SLSTM": "NIR has no gates; use snn.RSynaptic",
    "SConv2dLSTM": "NIR has no gates; use snn.RLeaky with conv2d_channels",
    "MaxPool1d": "NIR pools in two dimensions; use Conv2d and MaxPool2d with a height of 1",
    "AvgPool1d": "NIR pools in two dimensions; use Conv2d and AvgPool2d with a height of 1",
}
ONE_STEP = "write a forward of one step and one input: layers, neurons with init_hidden=True, and `+`"
BATCH, STEPS = 2, 8  # of the shapes that stand for the data


class TimeAxis(Exception):
    """The forward reads single steps of its input along this axis."""

    def __init__(self, axis: int) -> None:
        super().__init__(axis)
        self.axis = axis


class _Symbol(fx.Proxy):
    """A value without data, but with a shape."""

    tracer: Tracer

    @property
    def example(self) -> torch.Tensor:
        # Several outputs are a tuple: what this class asks it for, a tuple lacks as well, or has (its length).
        example: torch.Tensor = self.node.meta["example"]
        return example

    @property
    def shape(self) -> torch.Size:
        return self.example.shape

    @property
    def ndim(self) -> int:
        return self.example.ndim

    @property
    def device(self) -> torch.device:
        return self.example.device

    @property
    def dtype(self) -> torch.dtype:
        return self.example.dtype

    def size(self, dim: int | None = None) -> Any:
        return self.example.size() if dim is None else self.example.size(dim)

    def dim(self) -> int:
        return self.example.ndim

    def __len__(self) -> int:
        return len(self.example)

    def __getitem__(self, index: Any) -> fx.Proxy:
        if self._is_whole_input() and (axis := time_axis_of(index)) is not None:
            raise TimeAxis(axis)
        item: fx.Proxy = self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})
        return item

    def __iter__(self) -> Iterator[fx.Proxy]:
        if self._is_whole_input():
            raise TimeAxis(0)
        if self.node is self.tracer.input and self.tracer.time_axis == 0:
            return (self[step] for step in range(STEPS))
        raise fx.proxy.TraceError("a value without data cannot be unpacked")

    def _is_whole_input(self) -> bool:
        return self.node is self.tracer.input and self.tracer.time_axis is None


def time_axis_of(index: Any) -> int | None:
    """The axis of which ``x[index]`` takes one step: 0 for ``x[t]``, 1 for ``x[:, t]``."""
    entries = index if isinstance(index, tuple) else (index,)
    whole = (slice(None), ...)
    axis = next((i for i, entry in enumerate(entries) if isinstance(entry, int)), None)
    return axis if axis in (0, 1) and all(entry in whole for i, entry in enumerate(entries) if i != axis) else None


class Tracer(fx.Tracer):
    """Layers stay whole; every value carries an example of its shape, zeros throughout."""

    def __init__(self, input_shape: Shape, time_axis: int | None) -> None:
        super().__init__()
        shape = [BATCH, *input_shape]
        if time_axis is not None:
            shape.insert(time_axis, STEPS)
        self.time_axis, self.example = time_axis, torch.zeros(shape, dtype=torch.float64)
        self.input: fx.Node | None = None

    def proxy(self, node: fx.Node) -> _Symbol:
        """A symbol of a node."""
        return _Symbol(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Layers stay whole."""
        return is_layer(m)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Attributes are read as they are, parameters included."""
        return attr_val

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record a layer on a symbol; of a neuron, its spikes and states.

        Raises:
            GraphError: its input is no single value.
            LossyConversionError: a layer without NIR form.
        """
        if not is_layer(m) or (args and isinstance(args[0], torch.Tensor)):  # a tensor: a layer runs on its example
            return forward(*args, **kwargs)
        path, states = self.path_of_module(m), STATES.get(type(m))
        if not args or not isinstance(args[0], _Symbol):
            remedy = (
                "spikes and states; give the neuron in front init_hidden=True"
                if args and isinstance(args[0], tuple)
                else "no tensor; give it first"
            )
            raise GraphError(f"{path}: its input is {remedy}")
        if type(m) not in (*STATES, *LAYERS):
            kind = type(m).__name__
            raise LossyConversionError(f"{path}: {kind} has no NIR form here; {REMEDIES.get(kind, REMEDY)}")
        if states is None:
            return super().call_module(m, forward, args, kwargs)
        proxy = self.create_proxy(
            "call_module", path, args[:1], {**dict(zip(states, args[1:], strict=False)), **kwargs}
        )
        values = tuple(proxy[i] for i in range(len(outputs_of(m))))
        return values if m.output or not m.init_hidden else values[0]

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> Any:
        """A symbol that knows an example of its value."""
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        if kind == "placeholder" and self.input is None:
            self.input = proxy.node
        if kind != "output":
            proxy.node.meta["example"] = self._example(proxy.node)
        return proxy

    def _example(self, node: fx.Node) -> Any:
        found: Any = fx.node.map_arg((node.args, node.kwargs), self._known)
        args, kwargs = found
        with torch.no_grad():
            match node.op:
                case "placeholder":  # an argument with a default value keeps it, others are states
                    return (
                        self.example
                        if node is self.input
                        else args[0]
                        if args and args[0] is not None
                        else torch.zeros(0, dtype=torch.float64)
                    )
                case "call_module":
                    return _layer_example(self.root.get_submodule(str(node.target)), str(node.target), args, kwargs)
                case "call_method":
                    return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            if (
                self.time_axis is not None
                and node.target is operator.getitem
                and node.args[0] is self.input
                and time_axis_of(args[1]) == self.time_axis
            ):
                return args[0].select(self.time_axis, 0)  # the number of steps is the forward's own
            return node.target(*args, **kwargs)  # type: ignore[operator] # a call's target is a function

    def _known(self, node: fx.Node) -> Any:
        return operator.attrgetter(str(node.target))(self.root) if node.op == "get_attr" else node.meta["example"]


def _layer_example(module: nn.Module, path: str, args: Any, kwargs: Any) -> Any:
    if type(module) in STATES:
        return (args[0],) * len(outputs_of(module))
    if args[0].ndim == 0 or args[0].shape[0] != BATCH:
        raise GraphError(
            f"{path}: the first dimension of its input is not the batch; read single steps, use x.size(0) in view, "
            "flatten from dimension 1"
        )
    try:
        return module(*args, **kwargs)
    except (RuntimeError, ValueError, TypeError) as error:
        shape = tuple(args[0].shape[1:])
        raise InputError(
            f"{path}: {type(module).__name__} cannot take an input of shape {shape} without batch ({error}); check "
            "input_shape"
        ) from error


def is_layer(module: nn.Module) -> bool:
    """Whether a module stays whole: a layer of torch or snnTorch, or a neuron derived from them."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return isinstance(module, snn.SpikingNeuron) or (
        type(module).__module__.startswith(("torch.nn", "snntorch")) and not isinstance(module, containers)
    )


def outputs_of(neuron: nn.Module) -> tuple[str, ...]:
    """Names of what a neuron returns with its states: spikes first."""
    return ("spk", *(name for name in STATES[type(neuron)] if name != "spk"))


def shape_of(node: Any) -> Shape:
    """Shape of a recorded value, with the batch; a neuron's is that of its spikes."""
    example = node.meta["example"]
    return tuple((example[0] if isinstance(example, tuple) else example).shape)


def record(model: nn.Module, tracer: Tracer) -> fx.Graph:
    """The forward as a graph; arguments with a default value other than None keep it.

    Raises:
        GraphError: a forward that cannot be read without data, or that was replaced on the instance.
        NsllmNirError: what ``tracer`` refuses.
        TimeAxis: the forward loops over an axis that ``tracer`` does not know yet.
    """
    if "forward" in vars(model):
        raise GraphError(
            f"{type(model).__name__}.forward was replaced on the instance, where a copy would run the original; "
            "define it in the class"
        )
    parameters = inspect.signature(model.forward).parameters.items()
    fixed = {name: p.default for name, p in parameters if p.default is not p.empty and p.default is not None}
    try:
        return tracer.trace(model, concrete_args=fixed or None)
    except (NsllmNirError, TimeAxis):
        raise
    except Exception as error:
        frames = [
            f
            for f in traceback.extract_tb(error.__traceback__)
            if "/torch/" not in f.filename and f.filename != __file__
        ]
        where = f" (line {frames[-1].lineno} of {frames[-1].filename})" if len(frames) > 1 else ""
        raise GraphError(
            f"{type(model).__name__}.forward cannot be read without data{where}: {error}; {ONE_STEP}"
        ) from error
