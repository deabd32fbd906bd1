"""The head of a language model whose weight is the table of its embeddings: a product, whose inputs can be seen."""

from __future__ import annotations

from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import nn
from webapp.engine.weights.model import Model


def head_of(model: Model, table: LayerFacts) -> LayerFacts | None:
    """The product with the table, as a layer: patterns match it by all names of the table. None where there is none."""
    from webapp.engine.architectures.build import skeleton_of

    names = (table.name, *table.aliases)
    modules = dict(skeleton_of(model).named_modules(remove_duplicate=False)) if table.aliases else {}
    found = next((name for name in names if type(modules.get(name)) is nn.Linear), None)
    if found is None:
        return None
    others = tuple(name for name in names if name != found)
    return table.model_copy(update={"name": found, "kind": "linear", "aliases": others})
