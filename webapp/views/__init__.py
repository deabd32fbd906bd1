"""The blueprints, one file per noun: they parse, call and render. This list is all there is."""

from __future__ import annotations

from flask import Blueprint


def blueprints() -> list[Blueprint]:
    """In the order in which they are registered."""
    from . import checkpoints, datasets, health, home, recipes, runs, techniques

    return [
        home.blueprint,
        checkpoints.blueprint,
        datasets.blueprint,
        runs.blueprint,
        recipes.blueprint,
        techniques.blueprint,
        health.blueprint,
    ]
