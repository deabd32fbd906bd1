"""The API: one file per noun, all on one blueprint. What a route takes and gives is declared where it is defined,
and `openapi.json` is made from that."""

from . import (
    artifacts,
    blame,
    budgets,
    checkpoints,
    compare,
    datasets,
    deployments,
    document,
    folders,
    imports,
    profiles,
    prompts,
    publications,
    recipes,
    runs,
    samples,
    shares,
    studies,
    techniques,
    tryout,
    uploads,
    webhooks,
    workers,
)
from .document import pages
from .endpoints import blueprint
