"""The tour: five steps on the sample, shown on the pages themselves.

The session's cookie has how far a visitor has read, whether they left, and the study or run that they started. Where
they are follows from that and from what is there now, so that the tour can be left, resumed and never shows a step
that was done otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, request, session, url_for
from sqlalchemy import select
from sqlalchemy.orm import load_only

from webapp.samples import sample_checkpoint
from webapp.store.models import Checkpoint, Profile, Run, RunState, Study, UploadState

from .extensions import db

TITLES = ("Look at the sample", "Say how small", "Watch it being made", "Read the receipt", "Take it with you")
LOOK, BUDGET, WATCH, RECEIPT, TAKE = range(1, 6)
KEY = "tour"  # of the session


@dataclass(frozen=True)
class TourStep:
    """`url`: the page it happens on. There, `place` is the id of what to use; elsewhere `go` is the link's label.

    `next`: the label of the button that goes on; "" where the tour goes on by itself. `waits`: for a worker.
    """

    number: int
    sentence: str
    url: str
    go: str
    place: str = ""
    next: str = ""
    waits: bool = False

    @property
    def title(self) -> str:
        return TITLES[self.number - 1]

    @property
    def here(self) -> bool:
        return request.path == urlsplit(self.url).path


def init_tour(app: Flask) -> None:
    app.jinja_env.globals.update(tour=shown_step, tour_left_at=left_at, tour_titles=TITLES)


def start_tour() -> TourStep | None:
    """Begins it, or goes on where it was left. None where the sample is not there."""
    session[KEY] = {"read": LOOK} | session.get(KEY, {}) | {"left": False}
    session.permanent = True  # it can be resumed on another day
    return step()


def leave_tour() -> None:
    if KEY in session:
        session[KEY] = session[KEY] | {"left": True}


def go_on() -> TourStep | None:
    """From a step that one reads; after the last one the tour is over: None."""
    found = shown_step()
    if found is None:
        return None
    if found.number == TAKE:
        del session[KEY]
        return None
    if found.next:
        session[KEY] = session[KEY] | {"read": found.number + 1}
    return step()


def note_started(row: Run | Study) -> None:
    """What a visitor on the tour started is what it goes on with, where it is of the sample."""
    if KEY not in session or session[KEY].get("left"):
        return
    sample = sample_checkpoint(db.session)
    if sample is not None and row.checkpoint_id == sample.id:
        kind = "study" if isinstance(row, Study) else "run"
        session[KEY] = {"read": BUDGET, "left": False, kind: row.id}


def shown_step() -> TourStep | None:
    """Of a visitor who is on the tour."""
    return step() if KEY in session and not session[KEY].get("left") else None


def left_at() -> int:
    """The number of the step at which it was left; 0 where it was not."""
    found = step() if KEY in session and session[KEY].get("left") else None
    return found.number if found else 0


def step() -> TourStep | None:
    """Where the visitor is; None where the sample is not there."""
    state = session[KEY]
    sample = sample_checkpoint(db.session)
    if sample is None:
        return None
    if sample.state != UploadState.READY or state["read"] == LOOK:
        return _look(sample)
    run, address, ended = _started(state)
    if run is None or (ended and run.state != RunState.SUCCEEDED):
        return _budget(sample, failed=run is not None)
    if not ended:
        return TourStep(
            WATCH,
            "A worker makes the smaller file, loads it again in a clean process, and measures it beside the original. "
            "The page follows by itself, and so does the tour.",
            address,
            "Watch it",
            waits=True,
        )
    if state["read"] < TAKE:
        return TourStep(
            RECEIPT,
            "The receipt says where every byte went and what it cost: size, accuracy with its interval, and the proof "
            "that the file was loaded again. Every figure is measured on the file that you can download.",
            url_for("receipts.show", id=run.id),
            "Open the receipt",
            next="Next: take it with you",
        )
    return TourStep(
        TAKE,
        "Download the smaller file: it is what the receipt measured. Where a run has a format that can be served, "
        "there are a Deploy button and packages too. A checkpoint of your own goes the same way.",
        url_for("runs.show", id=run.id),
        "Open the run",
        place="files",
        next="Finish the tour",
    )


def _look(sample: Checkpoint) -> TourStep:
    address = url_for("checkpoints.show", id=sample.id)
    if sample.state == UploadState.REFUSED:
        sentence = "The sample could not be read. Delete it on its page, and take the tour again."
        return TourStep(LOOK, sentence, address, "See why")
    if sample.state != UploadState.READY:
        sentence = "A separate process is reading the sample. This takes a few seconds."
        return TourStep(LOOK, sentence, address, "See it being read", waits=True)
    return TourStep(
        LOOK,
        "The sample is a small network that reads handwritten digits. Its page shows what Pare found in the file: "
        "where the bytes are, and every tensor. Nothing in it was executed.",
        address,
        "Open the sample",
        next="Next: say how small",
    )


def _budget(sample: Checkpoint, failed: bool) -> TourStep:
    address = url_for("fit.show", id=sample.id)
    again = "That run did not succeed; start another one. " if failed else ""
    states = db.session.scalars(select(Profile.state).where(Profile.checkpoint_id == sample.id)).all()
    if RunState.SUCCEEDED in states and "new" not in request.args:
        told = "Choose a size with the slider, and see what it is expected to cost. Then press Run it and measure."
        return TourStep(BUDGET, again + told, address, "Choose a size", place="run")
    if {RunState.QUEUED, RunState.RUNNING} & {*states} and "new" not in request.args:
        told = "Pare measures what each layer can lose. The page goes on by itself when that is done."
        return TourStep(BUDGET, again + told, address, "See it being measured", waits=True)
    if states and "new" not in request.args:
        told = "What each layer can lose was not measured to the end. Press Retry."
        return TourStep(BUDGET, again + told, address, "Measure the layers")
    told = "First Pare measures what each layer can lose; it takes a few seconds. Press Profile it."
    return TourStep(BUDGET, again + told, address, "Measure the layers", place="profile-it")


def _started(state: dict[str, Any]) -> tuple[Run | None, str, bool]:
    """The run that the visitor goes on with, the page that shows it being made, and whether that has ended."""
    light = load_only(Run.id, Run.state, Run.role)
    if (study_id := state.get("study")) and (study := db.session.get(Study, study_id)):
        runs = db.session.scalars(select(Run).options(light).where(Run.study_id == study.id)).all()
        winner = (study.conclusion or {}).get("winner")
        first = [run for run in runs if run.id == winner] or [run for run in runs if (run.role or {}).get("leads")]
        first += [run for run in runs if run.state == RunState.SUCCEEDED] or [*runs]
        return next(iter(first), None), url_for("studies.show", id=study.id), study.state.final
    if (run_id := state.get("run")) and (run := db.session.get(Run, run_id, options=[light])):
        return run, url_for("runs.show", id=run.id), run.state.final
    return None, "", False
