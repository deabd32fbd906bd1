"""Deleting what nothing depends on. The files go when the sweep finds that no row names them any more."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from webapp.engine.errors import some
from webapp.store.clock import now
from webapp.store.digests import maker_of
from webapp.store.models import Checkpoint, Dataset, Deployment, Profile, Run, RunState, Share, Study

from .errors import Conflict


def delete_checkpoint(session: Session, checkpoint: Checkpoint) -> None:
    """Its profiles go with it, and a newer version of it becomes one of the version before.

    Raises Conflict while runs of it, or runs that it taught, are kept.
    """
    used = or_(Run.checkpoint_id == checkpoint.id, Run.teacher_checkpoint_id == checkpoint.id)
    refuse_if_used(session, f"checkpoint {checkpoint.name}", used)
    newer = update(Checkpoint).where(Checkpoint.newer_than_id == checkpoint.id)
    session.execute(newer.values(newer_than_id=checkpoint.newer_than_id))
    session.delete(checkpoint)
    session.commit()


def delete_dataset(session: Session, dataset: Dataset) -> None:
    """The profiles on it go with it. Raises Conflict while runs on it are kept."""
    used = or_(Run.dataset_id == dataset.id, Run.training_dataset_id == dataset.id)
    refuse_if_used(session, f"dataset {dataset.name}", used)
    session.delete(dataset)
    session.commit()


def delete_run(session: Session, run: Run) -> None:
    """As `delete_runs`, of one."""
    delete_runs(session, [run.id])


def delete_runs(session: Session, ids: Sequence[str]) -> None:
    """As `forget_runs`, at once."""
    forget_runs(session, ids)
    session.commit()


def forget_runs(session: Session, ids: Sequence[str]) -> None:
    """All of them or none, once the session is committed.

    Their shares are revoked; comparisons that were shared, and a study that one of them won, say that it is gone; their
    forks, the runs that continue them and their profiles forget them, as does a study of which one was taken, and a
    checkpoint whose best run goes has none any more.

    Raises Conflict while one is queued or running, or deployed.
    """
    asked = select(Run.id, Run.name, Run.state, Run.expected).where(Run.id.in_(ids))
    runs = {row.id: row for row in session.execute(asked)}
    for run in runs.values():
        if not RunState(run.state).final:
            raise Conflict(f"The run {run.name} is {run.state}; cancel it before you delete it.")
    served = select(Deployment.name, Deployment.run_id)
    served = served.where(Deployment.run_id.in_(runs), Deployment.token_hash.is_not(None))
    if held := session.execute(served.limit(1)).first():
        raise Conflict(f"The run {runs[held.run_id].name} is deployed as {held.name}. Delete the deployment first.")
    for column in (Run.forked_from_id, Run.continued_from_id):
        session.execute(update(Run).where(column.in_(runs)).values({column.key: None}))
    for came_back in session.scalars(select(Checkpoint).where(Checkpoint.delivered_by_id.in_(runs))):
        came_back.delivered_by_id = maker_of(session, came_back, but=runs)
    for share in session.scalars(select(Share).where(Share.revoked_at.is_(None))):
        gone = [runs[id_].name for id_ in share.run_ids if id_ in runs]
        if gone:
            share.run_ids = [id_ for id_ in share.run_ids if id_ not in runs]
            if share.view:
                share.view = {**share.view, "gone": [*share.view.get("gone", ()), *gone]}
            if not share.run_ids:
                share.revoked_at = now()
    taught = {(run.expected or {}).get("profile_id") for run in runs.values()} - {None}
    for profile in session.scalars(select(Profile).where(Profile.id.in_(taught))):
        profile.measured = [each for each in profile.measured if each["run_id"] not in runs]
    for study in session.scalars(select(Study).where(Study.id.in_(select(Run.study_id).where(Run.id.in_(runs))))):
        if (told := study.conclusion or {}).get("winner") in runs:
            sentence = f"{told['sentence']} The run with that file was deleted since."
            study.conclusion = {**told, "winner": None, "sentence": sentence}
    session.execute(update(Study).where(Study.taken_run_id.in_(runs)).values(taken_run_id=None))
    for run in list(session.identity_map.values()):
        if isinstance(run, Run) and run.id in runs:
            session.expunge(run)
    session.execute(delete(Run).where(Run.id.in_(runs)))  # what belongs to them goes with them: ON DELETE CASCADE


def refuse_if_used(session: Session, thing: str, condition: object) -> None:
    """Raises Conflict."""
    names = session.scalars(select(Run.name).where(condition).order_by(Run.created_at)).all()  # type: ignore[arg-type]
    if names:
        raise Conflict(f"The {thing} is used by the run {some(names, 1)}. Delete the runs first.")
