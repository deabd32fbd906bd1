"""What no step of a recipe can work on, with its share of the bytes: so that nobody wonders where they stayed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from webapp.engine.architectures.comparing import some
from webapp.engine.techniques.base import Technique

MOST = 8  # rows that name a tensor; the others are one row
KIND_LABELS = {
    "linear": "linear layers",
    "conv": "convolutions",
    "embedding": "embeddings",
    "recurrent": "recurrent matrices",
    "experts": "stacks of experts",
}
NO_LAYER = "multiplies in no layer that is known here (a table that is added, or an operation of its own)"
VECTORS = "vectors are small and sensitive"
STILL = "changed by a cast and by training only"


@dataclass(frozen=True)
class Held:
    """A float tensor, and what kind of layer it is the weight of ("other": of none)."""

    name: str
    kind: str
    shape: Sequence[int]
    bytes: int


class Unreached(BaseModel):
    """One row: a tensor, or several of one sort."""

    what: str
    bytes: int
    share: float
    why: str


def unreached(held: Iterable[Held], total: int, techniques: Sequence[Technique] | None = None) -> list[Unreached]:
    """The rows, largest first, of what none of these techniques works on; None: of what belongs to no layer at all.

    Training leaves every tensor as large as it was, so it is not counted as reaching one. `total` is the file's bytes.
    """
    shrink = [technique for technique in techniques or () if technique.family != "Training"]
    if techniques is not None and not shrink:
        return []
    kinds = frozenset(KIND_LABELS) if techniques is None else frozenset().union(*(each.layers for each in shrink))
    rest = sorted((one for one in held if one.kind not in kinds), key=lambda one: (-one.bytes, one.name))
    vectors = [one for one in rest if len(one.shape) < 2]
    tensors = [one for one in rest if one not in vectors]
    rows = [_row([one], total, _why(one, shrink)) for one in tensors[:MOST]]
    rows += [_row(tensors[MOST:], total, STILL)] if tensors[MOST:] else []
    rows += [_row(vectors, total, f"{VECTORS}; {STILL}")] if vectors else []
    return rows


def _why(one: Held, shrink: Sequence[Technique]) -> str:
    if one.kind == "other":
        return f"{NO_LAYER}; {STILL}"
    works = f"{some([each.title for each in shrink])} work{'' if shrink[1:] else 's'} on"
    kinds = sorted({KIND_LABELS[kind] for each in shrink for kind in each.layers if kind in KIND_LABELS})
    return f"{works} {', '.join(kinds)}; this is one of the {KIND_LABELS[one.kind]}"


def _row(held: Sequence[Held], total: int, why: str) -> Unreached:
    taken = sum(one.bytes for one in held)
    vectors = all(len(one.shape) < 2 for one in held)
    several = f"{len(held):,} {'vectors' if vectors else 'tensors'}, such as {held[0].name}"
    what = several if held[1:] else held[0].name
    return Unreached(what=what, bytes=taken, share=taken / max(total, 1), why=why)
