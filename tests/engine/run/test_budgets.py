"""A budget as runs take it: on all that is known by now, and what a run keeps of what was expected."""

import numpy as np
import pytest

from tests.engine.profiles.drawn_profiles import drawn_facts, drawn_measurements, drawn_profile
from webapp.engine.profiles.budget import BudgetGoal
from webapp.engine.run.budgets import expected_of, solver_of


@pytest.fixture(scope="module")
def solver():
    facts = drawn_facts()
    profile = drawn_profile(0, facts)
    runs = [
        each.model_copy(update={"run_id": "r"}) for each in drawn_measurements(np.random.default_rng(1), profile, 3)
    ]
    dumped = (each.model_dump(mode="json") for each in runs)
    return solver_of(profile.model_dump(mode="json"), dumped, facts.model_dump(mode="json"))


def test_what_runs_measured_is_among_what_the_profile_knows(solver):
    assert [each.run_id for each in solver.profile.measured] == ["r"] * 3


def test_a_run_keeps_what_each_family_was_expected_to_lose(solver):
    budget = solver.solve(BudgetGoal(ratio=0.3))
    expected = expected_of("p", budget)
    assert (expected["profile_id"], expected["size_bytes"]) == ("p", budget.size_bytes)
    assert expected["loss"]["metric"] == {"nats": "kl_divergence", "cosine distance": "cosine"}.get(
        solver.profile.unit, "relative_error"
    )
    choice = [layer.option for layer in budget.layers]
    known = {family: loss for family, loss in solver.predicted(choice).items() if loss}
    assert {family: loss for family, loss in expected["predicted"].items() if loss} == pytest.approx(known)
