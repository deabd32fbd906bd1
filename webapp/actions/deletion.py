"""Deleting what nothing depends on. The files go when the sweep finds that no row names them any more."""

from __future__ import annotations

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from webapp.engine.errors import some
from webapp.store.clock import now
from webapp.store.models import Checkpoint, Dataset, Deployment, Profile, Run, RunState, Share

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
    """Its shares are revoked; comparisons that were shared, and a study that it won, say that it is gone; its forks,
    the runs that continue it and its profile forget it, and its checkpoint has no best run any more if it was that.

    Raises Conflict while it is queued or running, or deployed.
    """
    if not RunState(run.state).final:
        raise Conflict(f"The run {run.name} is {run.state}; cancel it before you delete it.")
    served = select(Deployment.name).where(Deployment.run_id == run.id, Deployment.token_hash.is_not(None))
    if name := session.scalar(served.limit(1)):
        raise Conflict(f"The run {run.name} is deployed as {name}. Delete the deployment first.")
    for column in (Run.forked_from_id, Run.continued_from_id, Checkpoint.delivered_by_id):
        session.execute(update(column.class_).where(column == run.id).values({column.key: None}))
    for share in session.scalars(select(Share).where(Share.revoked_at.is_(None))):
        if run.id in share.run_ids:
            share.run_ids = [id_ for id_ in share.run_ids if id_ != run.id]
            if share.view:
                share.view = {**share.view, "gone": [*share.view.get("gone", ()), run.name]}
            if not share.run_ids:
                share.revoked_at = now()
    if profile := session.get(Profile, (run.expected or {}).get("profile_id", "")):
        profile.measured = [each for each in profile.measured if each["run_id"] != run.id]
    if run.study is not None and (told := run.study.conclusion or {}).get("winner") == run.id:
        gone = f"{told['sentence']} The run with that file was deleted since."
        run.study.conclusion = {**told, "winner": None, "sentence": gone}
    session.delete(run)
    session.commit()


def refuse_if_used(session: Session, thing: str, condition: object) -> None:
    """Raises Conflict."""
    names = session.scalars(select(Run.name).where(condition).order_by(Run.created_at)).all()  # type: ignore[arg-type]
    if names:
        raise Conflict(f"The {thing} is used by the run {some(names, 1)}. Delete the runs first.")
