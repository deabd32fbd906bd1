"""The API: one file per noun, all on one blueprint. What a route takes and gives is declared where it is defined,
and `openapi.json` is made from that."""

from . import artifacts, compare, datasets, document, recipes, runs, shares, techniques  # noqa: F401
from . import checkpoints as checkpoints
from .endpoints import blueprint

__all__ = ["blueprint"]
