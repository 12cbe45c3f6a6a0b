"""What stands in several places and no type checker sees: each table knows each operation, node, backend and family."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import get_type_hints


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
