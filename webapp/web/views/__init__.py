"""The blueprints, one file per noun: they parse, call and render. This list is all there is."""

from __future__ import annotations

from flask import Blueprint


def blueprints() -> list[Blueprint]:
    """In the order in which they are registered."""
    from . import (
        access,
        api,
        artifacts,
        checkpoints,
        compare,
        datasets,
        deployments,
        health,
        home,
        packages,
        plotly_library,
        receipts,
        run_builder,
        runs,
        serve,
        shares,
        techniques,
    )

    return [
        home.blueprint,
        access.blueprint,
        checkpoints.blueprint,
        datasets.blueprint,
        runs.blueprint,
        run_builder.blueprint,
        techniques.blueprint,
        compare.blueprint,
        receipts.blueprint,
        shares.blueprint,
        deployments.blueprint,
        serve.blueprint,
        artifacts.blueprint,
        packages.blueprint,
        plotly_library.blueprint,
        api.blueprint,
        api.pages,
        health.blueprint,
    ]
