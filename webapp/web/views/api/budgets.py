"""Budgets."""

from __future__ import annotations

from webapp.actions import budgets
from webapp.actions.budgets import BudgetRequest, RacedBudget
from webapp.web.extensions import db

from .endpoints import endpoint


@endpoint(
    "POST",
    "/budgets",
    "The recipe with the least expected loss within a size, or the least size within a tolerance; nothing is run",
    errors=(404, 409),
    example="""--json '{"profile_id": "ID", "goal": {"ratio": 0.25}}'""",
)
def solve_budget(body: BudgetRequest) -> RacedBudget:
    return budgets.solve_budget(db.session, body)
