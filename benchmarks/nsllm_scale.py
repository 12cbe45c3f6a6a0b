"""The work and the cost of a language model of NSLLM's size.

From its shapes and the firing statistics of the shipped model; no weights are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from cost_model_validation import shipped, text

from nsllm_nir.hw import boards, cost_model
from nsllm_nir.hw.boards import Board
from nsllm_nir.hw.cost_model import Setting
from nsllm_nir.hw.estimate import joules, mean_work, setting
from nsllm_nir.hw.token_work import Pass, Work, profile

TOKENS = 64  # of held-out text, for the firing statistics
LAYERS, WIDTH, FFN, VOCABULARY, BITS = 24, 2048, 8192, 50277, 2


@dataclass(frozen=True)
class Role:
    """What one op of the block does per neuron in the shipped model: means over layers and tokens.

    events, digits: per source neuron; bits: scan cycles per source neuron; levels: looked at per group of a Count.
    """

    events: float = 0.0
    digits: float = 0.0
    bits: float = 0.0
    levels: float = 0.0


@dataclass(frozen=True)
class Choice:
    """What the result depends on."""

    lanes: int = 256
    ports: int = 16
    clock_mhz: float = 250.0
    efficiency: float = 0.8
    bandwidth: float = 25.6e9
    firing: float = 1.0  # events and digits, times those of the shipped model
    gated_mixer: bool = False  # a receptance in the mixer, as in RWKV-4: 13 d^2 weights per layer instead of 12


@dataclass(frozen=True)
class Result:
    """Per token. roofs: seconds that each part would need alone."""

    choice: Choice
    seconds: float
    cycles: dict[str, float]
    bytes: float
    dynamic: float
    by_work: dict[str, float]
    roofs: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return 1 / self.seconds


def roles(ports: int) -> dict[str, Role]:
    """The statistics of the shipped model on held-out text, by the name of the op within its block."""
    tokens = profile(shipped(), text(TOKENS), ports)
    found: dict[str, list[Role]] = {}
    for work in (work for works in tokens for work in works):
        name = work.name.split(".", 2)[-1] if work.name.startswith("layer") else work.name
        name = ("mixer." if ".mixer." in work.name else "") + name
        groups = -(-work.size // ports)
        if work.kind == "Linear":
            events, digits = (sum(getattr(part, key) for part in work.passes) for key in ("events", "digits"))
            part = work.passes[0]
            found.setdefault(name, []).append(
                Role(events / work.source, digits / work.source, part.scan[2] / work.source)
            )
        elif work.kind == "Count":
            found.setdefault(name, []).append(Role(levels=work.steps / groups))
    return {
        name: Role(*np.mean([list(vars(role).values()) for role in entries], axis=0).tolist())
        for name, entries in found.items()
    }


def linear(name: str, source: int, outputs: int, role: Role, firing: float, ports: int) -> Work:
    """A projection whose source fires ``firing`` times as often as in the shipped model, with the same counts."""
    rate = min(1.0, firing * role.events)
    rows = (1 - (1 - rate) ** ports) * source / ports
    events, scan = rate * source, (-(-source // 64), rows, rate * source * role.bits / role.events)
    one = Pass(events, events * role.digits / role.events, 0, scan)
    return Work(
        name, "Linear", outputs, words=1, bytes=1, outputs=outputs, source=source, weight_bits=BITS, passes=(one,)
    )


def token(choice: Choice, known: dict[str, Role]) -> list[Work]:
    """The works of one token of the whole model."""
    ports, c = choice.ports, WIDTH

    def count(name: str, size: int, role: str, by_signal: bool = False) -> Work:
        return Work(
            name,
            "Count",
            size,
            words=0 if by_signal else 1,
            steps=known[role].levels * -(-size // ports),
            operands=1 + by_signal,
        )

    def project(name: str, source: int, outputs: int, role: str) -> Work:
        return linear(name, source, outputs, known[role], choice.firing, ports)

    shift, residual = Work("shift", "Delay", c, words=1, steps=1), Work("residual", "Sum", c, steps=2, operands=2)
    attention = [
        count("attention spikes", c, "input.spikes"),
        shift,
        *(project(name, c, c, name) for name in ("receptance", "key", "value")),
        count("receptance spikes", c, "receptance_spikes"),
        count("key spikes", c, "key_spikes"),
        count("value spikes", c, "value_spikes"),
        Work("key value", "Gate", c, operands=2),
        Work("numerator", "Integrate", c, bytes=1),
        Work("denominator", "Integrate", c, bytes=1),
        Work("read step", "Sum", c, steps=1),
        count("read spikes", c, "read_spikes", by_signal=True),
        Work("read gate", "Gate", c, operands=2),
        project("out", c, c, "out"),
        residual,
    ]
    mixer = [
        count("mixer spikes", c, "mixer.input.spikes"),
        shift,
        project("up", c, FFN, "mixer.up"),
        count("up spikes", FFN, "mixer.up_spikes"),
        project("down", FFN, c, "mixer.down"),
        residual,
    ]
    if choice.gated_mixer:
        mixer += [
            project("mixer receptance", c, c, "receptance"),
            count("receptance spikes", c, "receptance_spikes"),
            Work("gate", "Gate", c, operands=2),
        ]
    one = Pass(1, 1, 0, (-(-VOCABULARY // 64), 1, 1))
    embedding = Work(
        "embedding", "Linear", c, words=1, bytes=1, outputs=c, source=VOCABULARY, weight_bits=BITS, passes=(one,)
    )
    ends = [
        Work("input", "Input", VOCABULARY, steps=1),
        embedding,
        count("final spikes", c, "final.spikes"),
        project("head", c, VOCABULARY, "head"),
    ]
    return [*ends, *LAYERS * (attention + mixer)]


def parameters(works: Sequence[Work]) -> int:
    """Weights of all projections."""
    return sum(work.source * work.outputs for work in works)


def board_of(choice: Choice) -> Board:
    """The VCK190 with this build, clock and memory; the latency of the memory stays the same in seconds."""
    base = boards.load("vck190")
    memory = replace(
        base.memory,
        efficiency=choice.efficiency,
        bandwidth=choice.bandwidth,
        latency=round(base.memory.latency * choice.clock_mhz / base.clock_mhz),
    )
    return replace(
        base,
        engine=replace(base.engine, lanes=choice.lanes, ports=choice.ports),
        clock_mhz=choice.clock_mhz,
        memory=memory,
    )


def evaluate(choice: Choice, known: dict[str, Role]) -> Result:
    board = board_of(choice)
    where, works, units = setting(board), token(choice, known), cost_model.unit_costs()
    groups = {"projections": 0.0, "elementwise": 0.0, "embedding and head": 0.0}
    for work, cycles in zip(works, cost_model.op_cycles(works, where, units), strict=True):
        groups[group_of(work)] += cycles
    groups["answer, descriptors"] = cost_model.answer_cycles(works, units, len(works), VOCABULARY)
    done = mean_work([works], where)
    energy = joules(done, board.power)
    assert energy is not None
    hertz = choice.clock_mhz * 1e6
    roofs = {
        "lanes": lane_cycles(works, where) / hertz,
        "memory": done["memory_byte"] / (choice.bandwidth * choice.efficiency),
        "memory port (one beat per cycle)": sum(cost_model.beats(work, where) for work in works) / hertz,
        "elementwise, answer, descriptors": (groups["elementwise"] + groups["answer, descriptors"]) / hertz,
    }
    return Result(
        choice, sum(groups.values()) / hertz, groups, done["memory_byte"], sum(energy.values()), energy, roofs
    )


def group_of(work: Work) -> str:
    if work.name in ("embedding", "head", "input"):
        return "embedding and head"
    return "projections" if work.kind == "Linear" else "elementwise"


def lane_cycles(works: Sequence[Work], where: Setting) -> float:
    """Cycles in which the lanes add, if they never wait."""
    return sum(sum(part.digits for part in work.passes) * -(-work.outputs // where.sizes.lanes) for work in works)
