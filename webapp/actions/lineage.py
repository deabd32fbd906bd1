"""Where a checkpoint or a run comes from and what became of it, as a tree that stays small whatever there is.

A checkpoint has runs, a run has those that continue or fork it, and a file that it delivered may come back as a
checkpoint, which has runs in turn. Runs are found by indexes alone, since their rows hold receipts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import Session, aliased, load_only

from webapp.store.models import Checkpoint, Run, RunFigure

TOP, BELOW = 8, 4  # runs of a checkpoint that are shown, and of those that go on from one of them
DEEPEST = 6  # steps down from a checkpoint or a run, and up from it
MOST = 80  # runs in a tree
FIGURES = ("size_bytes", "quality")

How = Literal["", "continued", "forked", "uploaded again", "newer version"]


@dataclass
class LineageNode:
    """`how` it comes from what it stands below; "" of the runs of a checkpoint. `more` stand below it, not shown."""

    kind: Literal["checkpoint", "run"]
    id: str
    name: str
    state: str
    how: How = ""
    size_bytes: int | None = None
    metric: str = ""  # of `quality`
    quality: float | None = None
    best: bool = False
    current: bool = False
    children: list[LineageNode] = field(default_factory=list)
    more: int = 0


def lineage_of_checkpoint(session: Session, checkpoint: Checkpoint) -> LineageNode:
    """Its runs and what goes on from them; all of it below the run that delivered it, where Pare made it."""
    own = _of_checkpoint(checkpoint)
    own.current = True
    level, total = _top(session, checkpoint)
    own.more = total - len(level)
    nodes = {id_: LineageNode("run", id_, "", "") for id_ in level}
    own.children = [*nodes.values()]
    _grow(session, checkpoint.id, nodes)
    _fill(session, checkpoint, nodes)
    for newer in session.scalars(_light().where(Checkpoint.newer_than_id == checkpoint.id).limit(BELOW)):
        own.children.append(_of_checkpoint(newer, "newer version"))
    return _below_its_maker(session, own, checkpoint)


def lineage_of_run(session: Session, run: Run) -> LineageNode:
    """From its checkpoint down to the run, and what goes on from it."""
    own = node = LineageNode("run", run.id, "", "", current=True)
    nodes = {run.id: own}
    while len(nodes) < DEEPEST and (found := _parent(session, node.id)) is not None and found[0] not in nodes:
        parent = LineageNode("run", found[0], "", "", children=[node])
        node.how, node, nodes[parent.id] = found[1], parent, parent
    earlier = [each for each in nodes.values() if each is not own]
    of_all = _children(session, run.checkpoint_id, [each.id for each in earlier])[1]
    for each in earlier:
        each.more = of_all.get(each.id, 1) - 1
    root = _of_checkpoint(run.checkpoint)
    root.children, root.more = [node], _runs(session, root.id) - 1
    _grow(session, root.id, nodes, {run.id: own})
    _fill(session, run.checkpoint, nodes)
    return _below_its_maker(session, root, run.checkpoint)


def _below_its_maker(session: Session, node: LineageNode, checkpoint: Checkpoint) -> LineageNode:
    """Below the run that delivered the checkpoint, and that one's own checkpoint, and so on."""
    for _ in range(DEEPEST):
        maker = checkpoint.delivered_by_id and session.get(Run, checkpoint.delivered_by_id)
        if not maker:
            break
        node.how, above = "uploaded again", maker.checkpoint
        made = LineageNode("run", maker.id, "", "")
        _fill(session, above, {maker.id: made})
        made.children = [node]
        root = _of_checkpoint(above)
        root.children, root.more = [made], _runs(session, above.id) - 1
        node, checkpoint = root, above
    return node


def _light() -> Select[Any]:
    columns = (Checkpoint.id, Checkpoint.name, Checkpoint.state, Checkpoint.size_bytes, Checkpoint.delivered_by_id)
    return select(Checkpoint).options(load_only(*columns)).order_by(Checkpoint.created_at.desc(), Checkpoint.id)


def _of_checkpoint(checkpoint: Checkpoint, how: How = "") -> LineageNode:
    named = checkpoint.id, checkpoint.name, checkpoint.state.value
    return LineageNode("checkpoint", *named, how, checkpoint.size_bytes)


def _runs(session: Session, checkpoint_id: str) -> int:
    return session.scalar(select(func.count(Run.id)).where(Run.checkpoint_id == checkpoint_id)) or 0


def _parent_id() -> ColumnElement[Any]:
    return func.coalesce(Run.continued_from_id, Run.forked_from_id)


def _top(session: Session, checkpoint: Checkpoint) -> tuple[list[str], int]:
    """Its best run and its newest ones of those that go on from none of its own; and how many these are."""
    earlier = aliased(Run)
    goes_on = select(earlier.id).where(earlier.id == _parent_id(), earlier.checkpoint_id == checkpoint.id).exists()
    wanted = Run.checkpoint_id == checkpoint.id, or_(_parent_id().is_(None), ~goes_on)
    newest = session.scalars(select(Run.id).where(*wanted).order_by(Run.created_at.desc(), Run.id).limit(TOP)).all()
    best = session.scalars(select(Run.id).where(*wanted, Run.id == checkpoint.best_run_id)).all()
    total = session.scalar(select(func.count(Run.id)).where(*wanted)) or 0
    return [*dict.fromkeys([*best, *newest])][:TOP], total


def _parent(session: Session, run_id: str) -> tuple[str, How] | None:
    """The run of the same checkpoint that a run goes on from."""
    earlier = aliased(Run)
    asked = (
        select(earlier.id, Run.continued_from_id)
        .join(earlier, earlier.id == _parent_id())
        .where(Run.id == run_id, earlier.checkpoint_id == Run.checkpoint_id)
    )
    found = session.execute(asked).one_or_none()
    return None if found is None else (found[0], "continued" if found[1] else "forked")


def _children(
    session: Session, checkpoint_id: str, ids: Sequence[str]
) -> tuple[dict[str, list[tuple[str, How]]], dict[str, int]]:
    """By each of these runs: the newest that go on from it, and how many there are."""
    place = func.row_number().over(partition_by=_parent_id(), order_by=(Run.created_at.desc(), Run.id))
    count = func.count().over(partition_by=_parent_id())
    ranked = (
        select(
            Run.id,
            Run.continued_from_id.label("continued"),
            _parent_id().label("parent"),
            place.label("place"),
            count.label("count"),
        )
        .where(Run.checkpoint_id == checkpoint_id, _parent_id().in_(ids))
        .subquery()
    )
    found, total = dict[str, list[tuple[str, How]]](), dict[str, int]()
    for row in session.execute(select(ranked).where(ranked.c.place <= BELOW).order_by(ranked.c.place)):
        found.setdefault(row.parent, []).append((row.id, "continued" if row.continued else "forked"))
        total[row.parent] = row.count
    return found, total


def _grow(
    session: Session, checkpoint_id: str, nodes: dict[str, LineageNode], level: Mapping[str, LineageNode] | None = None
) -> None:
    """Puts what goes on from the runs of a `level`, of all `nodes` unless told, below them and into `nodes`."""
    level = nodes if level is None else level
    for _ in range(DEEPEST):
        if not level or len(nodes) >= MOST:
            return
        found, total = _children(session, checkpoint_id, [*level])
        below = dict[str, LineageNode]()
        for parent, children in found.items():
            shown = [(id_, how) for id_, how in children if id_ not in nodes][: MOST - len(nodes)]
            made = {id_: LineageNode("run", id_, "", "", how) for id_, how in shown}
            level[parent].children = [*made.values()]
            level[parent].more = total[parent] - len(made)
            below |= made
            nodes |= made
        level = below
    for parent, count in _children(session, checkpoint_id, [*level])[1].items():
        level[parent].more = count


def _fill(session: Session, checkpoint: Checkpoint, nodes: Mapping[str, LineageNode]) -> None:
    """Names, states and figures of runs of a checkpoint, and the files of them that came back."""
    for id_, name, state in session.execute(select(Run.id, Run.name, Run.state).where(Run.id.in_(nodes))):
        nodes[id_].name, nodes[id_].state, nodes[id_].best = name, state.value, id_ == checkpoint.best_run_id
    figures = select(RunFigure).where(RunFigure.run_id.in_(nodes), RunFigure.name.in_(FIGURES))
    for figure in session.scalars(figures):
        node = nodes[figure.run_id]
        if figure.name == "quality":
            node.quality, node.metric = figure.value, figure.text
        else:
            node.size_bytes = int(figure.value)
    for again in session.scalars(_light().where(Checkpoint.delivered_by_id.in_(nodes)).limit(MOST)):
        node = nodes[again.delivered_by_id]
        if again.id != checkpoint.id and len(node.children) < 2 * BELOW:
            node.children.append(_of_checkpoint(again, "uploaded again"))
