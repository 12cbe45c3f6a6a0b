"""NIR file to model: rebuild an NSLLM from a structured-profile file, with the same integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import nir

from nsllm_nir.composites.final import FinalNumbers
from nsllm_nir.composites.primitives import Composite, Projection, ResidualComposite, projection
from nsllm_nir.composites.registry import BLOCKS, VERSION, block_numbers, composite_op, is_version
from nsllm_nir.errors import GraphError
from nsllm_nir.graph import Graph, Node, as_graph, chain
from nsllm_nir.language_model.blocks.base import ResidualBlock, load_layer
from nsllm_nir.language_model.configuration import NSLLMConfig
from nsllm_nir.language_model.modeling import NSLLMBlock, NSLLMForCausalLM

RESIDUAL = "_residual"  # ending of the node that adds a block to the residual stream
Numbers = TypeVar("Numbers", bound=Composite)


def from_nir(source: Graph | nir.NIRGraph | str | Path) -> NSLLMForCausalLM:
    """Rebuild the model of a file that `to_nir` wrote (int8 weights, evaluation mode, count mode).

    Raises:
        GraphError: not an NSLLM graph, or one whose numbers this model class cannot hold.
    """
    graph = as_graph(source)
    info = graph.metadata.get("nsllm_nir")
    if not isinstance(info, dict) or info.get("model") != "nsllm":
        raise GraphError(
            "the graph is not an NSLLM model (its metadata does not say so); "
            "use `lower` and a backend that runs programs"
        )
    if not is_version(info.get("version")):
        raise GraphError(
            f"the NSLLM graph's version {info.get('version')} is unknown; this release reads version {VERSION}"
        )
    fraction, logit_fraction = _number(info, "residual_fraction_bits"), _number(info, "logit_fraction_bits")
    names = _residual_blocks(graph)
    blocks = {name: _block(graph, name, BLOCKS.get(name.split(".", 1)[1])) for name in names}
    final = _block(graph, "final", FinalNumbers)
    embedding, head = _projection(graph, "embedding"), _projection(graph, "head")
    _check_wiring(graph, names)
    config = _config(info, embedding, blocks, final)
    model = NSLLMForCausalLM(config)
    model.eval()  # type: ignore[no-untyped-call] # of transformers
    load_layer(model.embedding, embedding, "embedding", fraction)
    modules: list[ResidualBlock[Any]] = []
    for layer in model.layers:
        assert isinstance(layer, NSLLMBlock)
        modules += [block for _, block in layer.blocks()]
    for module, (name, numbers) in zip(modules, blocks.items(), strict=True):
        module.load(numbers, name)
    model.final.load(final.input, "final")
    load_layer(model.head, head, "head", logit_fraction)
    return model


def _number(info: dict[str, Any], key: str) -> int:
    try:
        return int(info[key])
    except (KeyError, TypeError, ValueError) as error:
        raise GraphError(f"the NSLLM graph lacks the number {key!r} in its metadata") from error


def _residual_blocks(graph: Graph) -> list[str]:
    """Names of the blocks (``layer_000.mixer``) in order of the residual stream: in each layer those of the first.

    A wrong name or a missing edge is left to `_block` and `_check_wiring`, which name it.
    """
    left = {
        name.removesuffix(RESIDUAL) for name in graph.nodes if name.startswith("layer_") and name.endswith(RESIDUAL)
    }
    layers = sorted({name.split(".")[0] for name in left})
    if not layers:
        raise GraphError("the NSLLM graph has no layer")
    edges, h, parts = set(graph.edges), "embedding.scale", []
    left = {name for name in left if name.startswith(f"{layers[0]}.")}
    while left:
        block = next((name for name in sorted(left) if (h, name) in edges), min(left))
        left.remove(block)
        parts.append(block.removeprefix(f"{layers[0]}."))
        h = block + RESIDUAL
    return [f"{layer}.{part}" for layer in layers for part in parts]


def _block(graph: Graph, name: str, kind: type[Numbers] | None) -> Numbers:
    node = graph.nodes.get(name)
    numbers = block_numbers(node, name) if isinstance(node, Graph) and composite_op(node) else None
    if kind is None or not isinstance(numbers, kind):
        raise GraphError(f"the NSLLM graph lacks its block {name!r}")
    return numbers


def _projection(graph: Graph, name: str) -> Projection:
    try:
        return projection(graph, name, f"{name}.scale")
    except (KeyError, IndexError, ValueError) as error:
        raise GraphError(f"the NSLLM graph lacks or distorts {error}") from error


def _check_wiring(graph: Graph, blocks: list[str]) -> None:
    """The model class has one wiring; a graph with another must not be bent to it."""
    edges, h = list(chain("input", "embedding", "embedding.scale")), "embedding.scale"
    for block in blocks:
        total = block + RESIDUAL
        edges += [(h, block), (h, total), (block, total)]
        h = total
        node = graph.nodes.get(total)
        if not isinstance(node, Node) or node.type != "Scale" or (node.array("scale") != 1).any():
            raise GraphError(f"{total!r} must be a Scale of ones in an NSLLM graph")
    edges += [(h, "final"), *chain("final", "head", "head.scale", "output")]
    odd = sorted(set(graph.nodes) ^ {end for edge in edges for end in edge})
    if odd:
        raise GraphError(f"the node {odd[0]!r} is missing or extra in an NSLLM graph")
    if sorted(graph.edges) != sorted(edges):
        wrong = sorted(set(graph.edges) ^ set(edges))
        raise GraphError(f"the edge {wrong[0] if wrong else 'list'} is missing, extra or doubled in an NSLLM graph")


def _config(
    info: dict[str, Any], embedding: Projection, blocks: dict[str, ResidualComposite], final: FinalNumbers
) -> NSLLMConfig:
    layers: dict[str, list[ResidualComposite]] = {}
    for name, block in blocks.items():
        layers.setdefault(name.split(".")[0], []).append(block)
    levels, found = _settings(layers, final)
    return NSLLMConfig(
        vocab_size=embedding.weight.shape[1],
        hidden_size=embedding.weight.shape[0],
        num_hidden_layers=len(layers),
        levels=levels,
        final_levels=final.input.levels,
        weight_bits=_number(info, "weight_bits"),
        residual_fraction_bits=_number(info, "residual_fraction_bits"),
        logit_fraction_bits=_number(info, "logit_fraction_bits"),
        frozen=True,
        blocks=[block.PART for block in next(iter(layers.values()))],
        **found,
    )


def _settings(layers: dict[str, list[ResidualComposite]], final: FinalNumbers) -> tuple[list[int], dict[str, Any]]:
    """Levels of each layer, and the settings that all blocks share."""
    found: dict[str, set[Any]] = {}
    levels: list[set[int]] = []
    for blocks in layers.values():
        settings = [entry for block in blocks for entry in block.settings()]
        levels.append({value for name, value in settings if name == "levels"})
        for name, value in [*settings, *final.input.settings()]:
            if name != "levels":
                found.setdefault(name, set()).add(value)
    wrong = [name.replace("_", " ") for name, values in found.items() if len(values) != 1]
    wrong += ["levels within a layer"] * any(len(values) != 1 for values in levels)
    if wrong:
        raise GraphError(f"the layers differ in {', '.join(wrong)}, which one NSLLMConfig cannot hold")
    return [value for (value,) in levels], {name: value for name, (value,) in found.items()}
