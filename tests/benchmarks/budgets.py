"""What a budget costs the server: milliseconds of CPU, median and 95th percentile, over goals as a slider gives them.

    python -m tests.benchmarks.budgets --blocks 30 --options 24 [--cuts]

The profile is drawn, of a language model whose blocks have seven matrices each; `first` is what the first budget takes.
With `--cuts` neurons, heads and blocks may leave; the first budget under other locks looks for those anew.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from tests.engine.profiles.drawn_profiles import drawn_facts, drawn_profile, with_drawn_cuts
from webapp.engine.profiles.budget import BudgetGoal, Limits, Solver


def timed(solver: Solver, goal: BudgetGoal, limits: Limits) -> float:
    start = time.process_time()
    solver.solve(goal, limits)
    return 1000 * (time.process_time() - start)


def percentiles(taken: list[float]) -> dict[str, float]:
    return {f"p{share}": round(float(np.percentile(taken, share)), 1) for share in (50, 95)}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--blocks", type=int, default=30)
    asked.add_argument("--options", type=int, default=24)
    asked.add_argument("--goals", type=int, default=200)
    asked.add_argument("--cuts", action="store_true")
    given = asked.parse_args()
    facts = drawn_facts(given.blocks, 576)
    profile = drawn_profile(0, facts, given.options, measured=12)
    rng = np.random.default_rng(0)
    if given.cuts:
        facts, profile = with_drawn_cuts(rng, facts, profile)
    start = time.process_time()
    solver = Solver(profile, facts)
    first = timed(solver, BudgetGoal(ratio=4), Limits())
    made = 1000 * (time.process_time() - start) - first
    smallest, losses = solver.smallest(), np.geomspace(1e-4, 1, given.goals)
    sizes = rng.uniform(smallest, facts.weights_bytes / 2, given.goals)
    locks = [{profile.layers[row].name: 1} for row in rng.integers(len(profile.layers), size=given.goals)]
    found = {
        "layers": len(profile.layers),
        "ms": {
            "solver made": round(made, 1),
            "first": round(first, 1),
            "bytes": percentiles([timed(solver, BudgetGoal(bytes=int(size)), Limits()) for size in sizes]),
            "loss": percentiles([timed(solver, BudgetGoal(loss=loss), Limits()) for loss in losses]),
            "bytes, another lock": percentiles(
                [
                    timed(solver, BudgetGoal(bytes=int(max(size, 3 * smallest))), Limits(locks=lock))
                    for size, lock in zip(sizes, locks, strict=True)
                ]
            ),
        },
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
