"""What is done to many runs at once: those that are ticked, or all that a view of the table has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Literal

from sqlalchemy import Insert, delete, func, select, update
from sqlalchemy.orm import Session

from webapp.engine.errors import PareError
from webapp.store.database import begin_writing
from webapp.store.models import Artifact, Deployment, Run, RunState, RunTag, Share

from .deletion import delete_runs
from .errors import RequestInvalid
from .run_notes import TAGS_MOST, clean_tags
from .run_requests import RunQueue, cancel_run, retry_run
from .run_table import RunsView, ids_of

RunAction = Literal["compare", "star", "unstar", "tag", "untag", "cancel", "retry", "delete"]
MOST: dict[RunAction, int] = {  # runs at once: what each takes, within the time that a request may take
    "compare": 400,  # whose ids an address holds
    "star": 10_000,
    "unstar": 10_000,
    "tag": 10_000,
    "untag": 10_000,
    "cancel": 500,
    "retry": 500,
    "delete": 5_000,
}
DONE: dict[RunAction, str] = {
    "star": "starred",
    "unstar": "no longer starred",
    "tag": "tagged",
    "untag": "no longer tagged so",
    "cancel": "cancelled",
    "retry": "started again",
    "delete": "deleted",
}
AT_ONCE = 200  # rows in one transaction: others write in between
NAMED = 3  # reasons that are told


@dataclass
class Performed:
    """What became of an action: how many runs it was done to, and the reason of each that it was not."""

    action: RunAction
    done: int = 0
    left: list[str] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        runs = "1 run was" if self.done == 1 else f"{self.done:,} runs were"
        said = f"{runs} {DONE[self.action]}."
        if self.left:
            others = len(self.left) - NAMED
            said += f" {len(self.left):,} could not be: {' '.join(self.left[:NAMED])}"
            said += f" And {others:,} more." if others > 0 else ""
        return said


@dataclass(frozen=True)
class Deletion:
    """What would go, and what would stay, if these runs were deleted."""

    going: int
    bytes: int  # of their files; what other runs have too stays
    links: int  # share links that end with it
    under_way: int
    deployed: int


def chosen(session: Session, action: RunAction, ids: Sequence[str], view: RunsView | None = None) -> list[str]:
    """The runs that an action is for: the ticked ones, or all of the view. Raises RequestInvalid."""
    found = ids_of(session, view, MOST[action] + 1) if view is not None else list(dict.fromkeys(ids))
    if not found:
        raise RequestInvalid("No run is chosen. Tick some, or choose all that match.", "run")
    if len(found) > MOST[action]:
        raise RequestInvalid(
            f"At most {MOST[action]:,} runs can be chosen for this at once, and these are more. "
            "Narrow the table, and do it in parts.",
            "run",
        )
    return found


def perform(
    session: Session, jobs: RunQueue, action: RunAction, ids: Sequence[str], tags: Sequence[str] = ()
) -> Performed:
    """Does it to each run that it can be done to. Raises RequestInvalid where it can be done to none at all."""
    performed = Performed(action)
    ids = _there(session, ids, performed)
    if action in ("star", "unstar"):
        for some in _parts(ids):
            known = session.execute(update(Run).where(Run.id.in_(some)).values(starred=action == "star"))
            performed.done += known.rowcount  # type: ignore[attr-defined]
            session.commit()
    elif action in ("tag", "untag"):
        wanted = clean_tags(tags)
        if not wanted:
            raise RequestInvalid("No tag is named. Write one, or several with commas between.", "tags")
        change = _tag if action == "tag" else _untag
        for some in _parts(ids):
            change(session, some, wanted, performed)
            session.commit()
    elif action == "delete":
        for some in _parts(ids):
            _delete(session, some, performed)
    elif action in ("cancel", "retry"):
        _each(
            session, ids, performed, lambda run: (cancel_run if action == "cancel" else retry_run)(session, jobs, run)
        )
    else:
        raise RequestInvalid(f"{action!r} is nothing that is done to runs here.", "action")
    return performed


def foreseen_deletion(session: Session, ids: Sequence[str]) -> Deletion:
    """For the question before it."""
    going, under_way, deployed, size = 0, 0, 0, 0
    for some in _parts(_plain(ids)):
        free, busy, served = _deletable(session, some)
        going, under_way, deployed = going + len(free), under_way + len(busy), deployed + len(served)
        size += session.scalar(select(func.sum(Artifact.size_bytes)).where(Artifact.run_id.in_(free))) or 0
    gone = set(ids)
    open_links = session.scalars(select(Share.run_ids).where(Share.revoked_at.is_(None)))
    return Deletion(going, int(size), sum(bool(runs) and set(runs) <= gone for runs in open_links), under_way, deployed)


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE))


def _plain(ids: Iterable[str]) -> list[str]:
    """Those that can be one; PostgreSQL takes no text with a NUL."""
    return [id_ for id_ in ids if id_.isascii() and id_.isalnum()]


def _there(session: Session, ids: Sequence[str], performed: Performed) -> list[str]:
    """The ids that are of a run; the others are left."""
    known: set[str] = set()
    for some in _parts(_plain(ids)):
        known.update(session.scalars(select(Run.id).where(Run.id.in_(some))))
    performed.left += [f"There is no run {id_[:12]!r}." for id_ in ids if id_ not in known]
    return [id_ for id_ in ids if id_ in known]


def _each(session: Session, ids: Sequence[str], performed: Performed, do: Callable[[Run], None]) -> None:
    for id_ in ids:
        run = session.get(Run, id_)
        if run is None:
            performed.left.append(f"The run {id_} has just been deleted.")
            continue
        try:
            do(run)
            performed.done += 1
        except PareError as error:
            session.rollback()
            performed.left.append(error.message)
        session.expunge_all()  # receipts of hundreds are not kept in memory


def _deletable(session: Session, ids: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The ids that can be deleted, and sentences on those under way and those deployed."""
    served = select(Deployment.run_id, Deployment.name)
    served = served.where(Deployment.run_id.in_(ids), Deployment.token_hash.is_not(None))
    names = dict(session.execute(served).tuples().all())
    free, busy, deployed = [], [], []
    for id_, name, state in session.execute(select(Run.id, Run.name, Run.state).where(Run.id.in_(ids))):
        if not RunState(state).final:
            busy.append(f"The run {name} is {state}; cancel it first.")
        elif id_ in names:
            deployed.append(f"The run {name} is deployed as {names[id_]}; delete the deployment first.")
        else:
            free.append(id_)
    return free, busy, deployed


def _delete(session: Session, ids: Sequence[str], performed: Performed) -> None:
    free, busy, deployed = _deletable(session, ids)
    if free:
        delete_runs(session, free)
    performed.done += len(free)
    performed.left += busy + deployed


def _tag(session: Session, ids: Sequence[str], tags: Sequence[str], performed: Performed) -> None:
    """A run that would have too many tags keeps those that it has."""
    begin_writing(session)
    asked = select(Run.id, Run.name).where(Run.id.in_(ids)).order_by(Run.id).with_for_update()
    there = session.execute(asked).tuples().all()
    others = select(RunTag.run_id, func.count()).where(RunTag.run_id.in_(ids), RunTag.tag.not_in(tags))
    counted = dict(session.execute(others.group_by(RunTag.run_id)).tuples().all())
    fits = []
    for id_, name in there:
        if counted.get(id_, 0) + len(tags) > TAGS_MOST:
            performed.left.append(f"The run {name} would have more than {TAGS_MOST} tags.")
        else:
            fits.append(id_)
    if fits:
        session.execute(_unless_there(session), [{"run_id": id_, "tag": tag} for id_ in fits for tag in tags])
    performed.done += len(fits)


def _unless_there(session: Session) -> Insert:
    dialect = import_module(f"sqlalchemy.dialects.{session.get_bind().dialect.name}")  # one is there, the other is 3 MB
    statement: Insert = dialect.insert(RunTag).on_conflict_do_nothing()
    return statement


def _untag(session: Session, ids: Sequence[str], tags: Sequence[str], performed: Performed) -> None:
    session.execute(delete(RunTag).where(RunTag.run_id.in_(ids), RunTag.tag.in_(tags)))
    performed.done += session.scalar(select(func.count(Run.id)).where(Run.id.in_(ids))) or 0
