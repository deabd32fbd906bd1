"""The first page: what Pare does, the sample ready to try, and the latest runs."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, render_template, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import func, select

from webapp import samples
from webapp.actions.compatibility import first_choice
from webapp.actions.run_table import RunsView, runs_page
from webapp.store.models import Checkpoint, Dataset, Run, UploadState
from webapp.web.extensions import db, services

from .checkpoints import accepted

blueprint = Blueprint("home", __name__)

LATEST = 6


@blueprint.get("/")
def index() -> str:
    return render_template(
        "home/index.html",
        runs=runs_page(db.session, RunsView(), LATEST).runs,
        columns=RunsView().shown,
        run_count=db.session.scalar(select(func.count()).select_from(Run)),
        checkpoint_count=db.session.scalar(select(func.count()).select_from(Checkpoint)),
        sample=(ready := sample()),
        reading=(reading := [] if ready and ready[1] else being_read()),
        is_sample=set(reading) <= {path.name for path in samples.FILES},
        accepted=accepted(),
    )


@blueprint.post("/sample")
def use_sample() -> ResponseReturnValue:
    """Adds what of the sample is not there. Raises StoreFull where there is no space for it."""
    if not samples.install(db.session, services().files, services().jobs):
        flash("The sample is here already.")
    return redirect(url_for("home.index"))


def being_read() -> list[str]:
    """The names of the uploads under inspection, while there is no run yet: on a fresh installation, the sample's."""
    if db.session.scalar(select(Run.id).limit(1)) is not None:
        return []
    return [
        name
        for table in (Checkpoint, Dataset)
        for name in db.session.scalars(select(table.name).where(table.state == UploadState.INSPECTING))
    ]


def sample() -> tuple[Checkpoint, Dataset | None] | None:
    """The oldest checkpoint that is ready, with a dataset that fits it: on a fresh installation, the sample."""
    checkpoint = db.session.scalars(
        select(Checkpoint).where(Checkpoint.state == UploadState.READY).order_by(Checkpoint.created_at).limit(1)
    ).first()
    if checkpoint is None:
        return None
    return checkpoint, first_choice(db.session, checkpoint)
