"""The blueprints, one file per noun: they parse, call and render. This list is all there is."""

from __future__ import annotations

from importlib import import_module

from flask import Blueprint

NOUNS = """
    home tour access checkpoints fit datasets runs lineage blame samples prompts run_builder techniques compare receipts
    studies shares deployments serve artifacts packages publications webhooks plotly_library health
"""


def blueprints() -> list[Blueprint]:
    """In the order in which they are registered."""
    from . import api

    return [*(import_module(f"{__name__}.{noun}").blueprint for noun in NOUNS.split()), api.blueprint, api.pages]
