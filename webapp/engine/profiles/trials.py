"""What each option would make of a matrix, from it and the covariance of its inputs: no module runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from webapp.engine.lazy import Tensor
from webapp.engine.math.grids import QuantizationScheme, may_be_wide
from webapp.engine.profiles.facts import Option, OptionStep
from webapp.engine.profiles.menu import in_wide_scales, planned
from webapp.engine.techniques import technique
from webapp.engine.techniques.calibration import Covariance, WeightMatrix
from webapp.engine.techniques.rounding import Rounding
from webapp.engine.weights import Composite, Encoded

Chain = Sequence[OptionStep]


def rows_apart(steps: Chain) -> bool:
    """Whether the change of some rows of a matrix (`WeightMatrix.some_rows`) is what they get within the whole."""
    return all(technique(step.technique).rows_apart for step in steps)


def changes(matrix: WeightMatrix, inputs: Covariance | None, chains: Sequence[Chain]) -> Iterator[tuple[int, Tensor]]:
    """(which of the chains of steps, the change of the matrix: float32 (out, in)), one at a time, in any order.

    Left out are those that cannot be done to its values. `inputs` is None where nobody saw them.
    """
    before = matrix.floats()
    for index, encoded in _tried(matrix, inputs, list(enumerate(chains))):
        after = matrix.layout.matrix(encoded.decode().float())
        yield index, after - before


def bytes_at_most(matrix: WeightMatrix, options: Sequence[Option]) -> list[int]:
    """Of each option, in the order given. A plan knows shapes alone, and takes scales for float16; a group of tiny or
    of huge values makes all of them float32."""
    unit, before, values = matrix.layer, matrix.encoded.plan, matrix.floats()
    wide: dict[QuantizationScheme, bool] = {}
    found = []
    for option in options:
        more = 0
        for name, settings in ((step.technique, step.settings) for step in option.steps[-1:]):
            kind = technique(name)
            if isinstance(kind, Rounding):
                given: Any = kind.Settings.model_validate(settings)
                scheme = given.scheme
                if scheme not in wide:
                    wide[scheme] = may_be_wide(values, scheme)
                plan = planned(unit, before, option.steps)
                more = in_wide_scales(plan).bytes - plan.bytes if wide[scheme] else 0
        found.append(option.bytes + more)
    return found


def _tried(
    matrix: WeightMatrix, inputs: Covariance | None, chains: Sequence[tuple[int, Chain]]
) -> Iterator[tuple[int, Encoded]]:
    """Chains with the same first step share it."""
    by_first: dict[str, dict[str, list[tuple[int, Chain]]]] = {}
    for index, (first, *rest) in ((index, chain) for index, chain in chains if chain):
        same = by_first.setdefault(first.technique, {})
        same.setdefault(json.dumps(first.settings, sort_keys=True), []).append((index, rest))
    for name, given in by_first.items():
        found = technique(name)
        choices = [found.Settings.model_validate_json(settings) for settings in given]
        for encoded, rests in zip(found.trials(matrix, inputs, choices), given.values(), strict=True):
            if encoded is None:
                continue
            yield from ((index, encoded) for index, rest in rests if not rest)
            yield from _followed(matrix, inputs, encoded, [(index, rest) for index, rest in rests if rest])


def _followed(
    matrix: WeightMatrix, inputs: Covariance | None, encoded: Encoded, chains: Sequence[tuple[int, Chain]]
) -> Iterator[tuple[int, Encoded]]:
    """The later steps of these chains, which start with what a first step made of the matrix."""
    if not isinstance(encoded, Composite):
        yield from _tried(matrix.with_values(encoded), inputs, chains)
        return
    parts = _factors(matrix.with_values(encoded), encoded, inputs)
    for index, chain in chains:
        made = [[last for _, last in _tried(*parts[name], [(0, chain)])] for name in encoded.factors]
        if all(made):
            yield index, encoded.with_factors(*(last for (last,) in made))


def _factors(
    whole: WeightMatrix, encoded: Composite, inputs: Covariance | None
) -> dict[str, tuple[WeightMatrix, Covariance | None]]:
    """Each factor as a matrix, with what it is multiplied with: what the one before it puts out; None of a filter's."""
    seen = inputs if len(encoded.shape) == 2 else None
    found = {}
    for product, name in encoded.runs(whole.layout.transposed).items():
        factor = WeightMatrix(whole.layer, f"{whole.path}.{product}", name, whole.layout, whole.model)
        found[name] = (factor, seen)
        seen = seen.through(factor.floats()) if seen is not None else None
    return found
