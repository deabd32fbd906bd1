"""What someone who has nothing yet does next: the button of pages that are empty."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Flask, url_for
from sqlalchemy import select

from webapp.store.models import Checkpoint, Run, RunState, UploadState

from .extensions import db


@dataclass(frozen=True)
class NextStep:
    """`posts`: it is done by a form, not by a link. `first`: there is no checkpoint yet that could be made smaller."""

    label: str
    icon: str
    url: str
    posts: bool = False
    first: bool = False


def init_next_step(app: Flask) -> None:
    app.jinja_env.globals["next_step"] = next_step


def next_step() -> NextStep:
    """From the sample, where there is no checkpoint, to a run that has succeeded."""
    oldest = select(Checkpoint.id, Checkpoint.name).order_by(Checkpoint.created_at).limit(1)
    ready = db.session.execute(oldest.where(Checkpoint.state == UploadState.READY)).first()
    if ready is None:
        read = db.session.execute(oldest.where(Checkpoint.state == UploadState.INSPECTING)).first()
        if read is not None:
            return NextStep(
                f"See {read.name} being read", "search", url_for("checkpoints.show", id=read.id), first=True
            )
        return NextStep("Use the sample", "play-fill", url_for("home.use_sample"), posts=True, first=True)
    newest = select(Run.id).order_by(Run.created_at.desc()).limit(1)
    if db.session.scalar(newest.where(Run.state == RunState.SUCCEEDED)) is not None:
        return NextStep("See the runs", "layers", url_for("runs.index", state="succeeded"))
    under_way = Run.state.in_((RunState.QUEUED, RunState.RUNNING))
    if (going := db.session.scalar(newest.where(under_way))) is not None:
        return NextStep("Watch the run", "play-fill", url_for("runs.show", id=going))
    return NextStep(f"Make {ready.name} smaller", "bullseye", url_for("fit.show", id=ready.id))
