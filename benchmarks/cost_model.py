"""The cost model against clock-accurate simulation, and the fit of its constants.

    python benchmarks/cost_model.py --calibrate    # simulates the fit set, writes hw/unit_costs.json; then validates
    python benchmarks/cost_model.py                # simulates the validation set, writes benchmarks/cost_model.md

The fit set is `cost_model_cases.fit_cases`, the validation set `cost_model_validation.cases`; they have no
program in common.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cost_model_cases import Case, fit_cases
from cost_model_validation import cases
from scipy.optimize import least_squares

from nsllm_nir.hw import cost_model, toolchain
from nsllm_nir.hw.cost_model import Setting, Units
from nsllm_nir.hw.token_work import Work, profile

LIMIT = 0.05
# Groups of constants by the kinds of op that they are fitted to; ("queue", "round") goes with the synapses.
SYNAPSES = ("Linear", "Conv2d")
FITS = {
    SYNAPSES: ("synapses", *SYNAPSES),
    **dict[tuple[str, ...], tuple[str, ...]](
        {(kind,): (kind,) for kind in ("Input", "Sum", "Count", "Gate", "Integrate", "Delay", "Lif")}
    ),
}


@dataclass(frozen=True)
class Sample:
    """One op in one token of a simulation."""

    work: Work
    setting: Setting
    lead: float
    cycles: int


@dataclass(frozen=True)
class Token:
    """One token: its works, and the cycles in which no op was busy."""

    works: tuple[Work, ...]
    setting: Setting
    ports: int
    words: int
    rest: int


def samples(chosen: list[Case], units: Units) -> tuple[dict[str, list[Sample]], list[Token]]:
    """Simulate; the beats that the model counts must be those that the engine reads."""
    found: dict[str, list[Sample]] = defaultdict(list)
    tokens = []
    for case in chosen:
        cycles = case.simulate()
        words = sum(case.program.signals[name].size for name in case.program.traced)
        for token, works in enumerate(profile(case.program, case.spikes, case.setting.sizes.ports)):
            beats = sum(cost_model.beats(work, case.setting) for work in works)
            assert beats == cycles.beats[token], f"{case.name}: {beats} beats, simulated {cycles.beats[token]}"
            taken = [int(cycles.ops[work.name][token]) for work in works]
            for at, work in enumerate(works):
                lead = cost_model.lead(works[at - 1], taken[at - 1], case.setting, units) if at else 0.0
                found[work.kind].append(Sample(work, case.setting, lead, taken[at]))
            rest = cycles.total[token] - sum(int(row[token]) for row in cycles.ops.values())
            tokens.append(Token(works, case.setting, len(case.program.traced), words, int(rest)))
    return found, tokens


def fit(kinds: tuple[str, ...], chosen: list[Sample], units: Units) -> Units:
    """Least squares of relative errors (robust), from the constants of the file."""
    names = [(group, name) for group in FITS[kinds] for name in units[group]] + (
        [("queue", "round")] if kinds == SYNAPSES else []
    )

    def changed(values: np.ndarray) -> Units:
        out = {group: dict(entries) for group, entries in units.items()}
        for (group, name), value in zip(names, values, strict=True):
            out[group][name] = float(value)
        return out

    start = np.array([units[group][name] for group, name in names])

    def errors(values: np.ndarray) -> np.ndarray:
        trial = changed(values)
        wrong = [(cost_model.cycles(s.work, s.setting, trial, s.lead) - s.cycles) / (s.cycles + 20) for s in chosen]
        return np.array([*wrong, *(1e-4 * (values - start))])  # what the samples do not tell apart stays

    found = least_squares(errors, start, bounds=(0, 400), diff_step=1e-3, loss="soft_l1", f_scale=0.02, max_nfev=15)
    wrong = np.abs(errors(found.x)[: len(chosen)])
    print(
        f"{', '.join(kinds)}: {len(chosen)} samples, error mean {wrong.mean():.2%}, largest {wrong.max():.2%}",
        flush=True,
    )
    return changed(np.round(found.x, 3))


def fit_tokens(tokens: list[Token]) -> dict[str, float]:
    """Linear least squares of what a token costs beside its ops."""
    rows = [
        [1, len(t.works), len(t.works) * any(w.kind == "Delay" and w.steps for w in t.works), t.ports] for t in tokens
    ]
    found, *_ = np.linalg.lstsq(np.array(rows, float), np.array([t.rest - t.words for t in tokens], float), rcond=None)
    return dict(zip(("fixed", "op", "delays", "port"), found.round(3).tolist(), strict=True))


def calibrate() -> None:
    """Fit all constants and write them."""
    units = cost_model.unit_costs()
    source = (toolchain.RTL_SOURCES / "spike_engine.sv").read_text(encoding="utf-8")
    for name, parameter in (("weight", "WEIGHT_BEATS"), ("constant", "CONSTANT_BEATS")):
        depth = re.search(rf"parameter int {parameter} = (\d+)", source)
        assert depth, parameter
        units["queue"][name] = int(depth[1])
    found, tokens = samples(list(fit_cases()), units)
    found["Conv2d"] = found["Conv2d"][::3]  # one token of each: a Conv2d has many passes
    for kinds in FITS:
        units = fit(kinds, [sample for kind in kinds for sample in found[kind]], units)
    units["token"] = fit_tokens(tokens)
    about = (
        "Fitted by `python benchmarks/cost_model.py --calibrate` to clock-accurate simulations; clock cycles. Tier: "
        "simulated."
    )
    cost_model.UNIT_COSTS.write_text(json.dumps({"about": about, "units": units}, indent=1) + "\n", encoding="utf-8")
    cost_model.unit_costs.cache_clear()


def validate(case: Case) -> tuple[int, float, str, float, float]:
    """The model against the simulation of one case.

    Returns cycles of all tokens, simulated and modelled; the op with the largest error in cycles, that error in cycles
    per token, and as a share of the op's own cycles.
    """
    units, cycles = cost_model.unit_costs(), case.simulate()
    tokens = profile(case.program, case.spikes, case.setting.sizes.ports)
    total = sum(cost_model.token_cycles(case.program, works, units, traced=True) for works in tokens)
    by_op: dict[str, float] = defaultdict(float)
    for works in tokens:
        for work, modelled in zip(works, cost_model.op_cycles(works, case.setting, units), strict=True):
            by_op[work.name] += modelled
            total += modelled
    wrong = {name: of_op - int(cycles.ops[name].sum()) for name, of_op in by_op.items()}
    worst = max(wrong, key=lambda name: abs(wrong[name]))
    return (
        int(cycles.total.sum()),
        total,
        worst,
        wrong[worst] / len(tokens),
        wrong[worst] / max(1, int(cycles.ops[worst].sum())),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibrate", action="store_true", help="fit the constants first")
    if parser.parse_args().calibrate:
        calibrate()
    lines, errors = [], []
    for number, case in enumerate(cases(), 1):
        simulated, modelled, worst, cycles, share = validate(case)
        where, tokens = case.setting, len(case.spikes)
        errors.append(modelled / simulated - 1)
        lines.append(
            f"| {number} | {case.name} | {where.sizes.lanes}/{where.sizes.ports} "
            f"| {where.latency:g}/{where.interval:g} | {simulated / tokens:,.1f} | "
            f"{modelled / tokens:,.1f} | {errors[-1]:+.2%} | `{worst}` {cycles:+.1f} ({share:+.1%}) |"
        )
        print(lines[-1], flush=True)
    within = sum(abs(error) <= LIMIT for error in errors)
    head = [
        "# Errors of the cost model",
        "",
        (
            "Written by `python benchmarks/cost_model.py`. Cycles per token, the answer with all signals as in a run "
            "of the backend: *simulated* clock by"
        ),
        (
            "clock, *modelled* from the spikes of the integer reference and `hw/unit_costs.json`. Programs and "
            "settings that the constants were not fitted to"
        ),
        (
            "(fit set: `cost_model_cases.fit_cases`; validation set: `cost_model_validation.cases`). Memory: latency "
            "/ cycles per beat. Worst op: the one whose"
        ),
        (
            "cycles per token are furthest off. The beats read from memory are modelled exactly in every fit case "
            "(asserted)."
        ),
        "",
        (
            f"Within {LIMIT:.0%}: {within} of {len(errors)}; mean error {np.mean(np.abs(errors)):.2%}, largest "
            f"{max(errors, key=abs):+.2%}."
        ),
        "",
        "| | model | lanes/ports | memory | simulated | modelled | error | worst op |",
        "|---|---|---|---|---|---|---|---|",
    ]
    (Path(__file__).parent / "cost_model.md").write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
    raise SystemExit(0 if within == len(errors) else 1)


if __name__ == "__main__":
    main()
