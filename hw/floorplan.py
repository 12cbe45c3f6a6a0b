"""Where a placed design lies on its device, read from what nextpnr wrote for the packer."""

from __future__ import annotations

from collections import Counter

from nsllm_nir.errors import InputError
from nsllm_nir.hw import families

KINDS = ("LUT", "FF", "block RAM")
Floorplan = dict[str, list[tuple[int, int, int]]]  # {kind of site: (column, row, how many of them are used)}


def floorplan(family: str, placed: str) -> Floorplan:
    """The used look-up tables, flip-flops and block RAMs. placed: what nextpnr wrote for the packer of the family.

    Raises:
        InputError: no such family, or it is only estimated.
    """
    flow = families.load(family).flow
    if flow is None:
        raise InputError(f"no open tool places and routes the family {family}")
    counts = Counter(flow.sites(placed))
    return {
        kind: sorted((column, row, n) for (name, column, row), n in counts.items() if name == kind) for kind in KINDS
    }
