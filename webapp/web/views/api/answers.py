"""Rows of the database as the API gives them."""

from __future__ import annotations

from typing import TypeVar

from flask import url_for
from sqlalchemy import ColumnElement, Select, select, tuple_

from webapp.actions.errors import RequestInvalid
from webapp.actions.studies import StudyRow, progress_of, rows_of, unit_of
from webapp.actions.sweeps import GATHERED, SweptRun, share_done, told
from webapp.store.models import Checkpoint, Dataset, LogLine, Profile, Run, Share, Study
from webapp.web.extensions import db
from webapp.web.views.shares import share_token

from . import schemas

LOG_TAIL, LOG_MOST = 200, 1000  # lines

Row = TypeVar("Row", Checkpoint, Dataset, Profile, Study)


def page(table: type[Row], query: schemas.PageQuery, *conditions: ColumnElement[bool]) -> tuple[list[Row], str | None]:
    """The rows of one page, newest first, and the id to ask the next with. Raises RequestInvalid."""
    asked: Select[tuple[Row]] = select(table).order_by(table.created_at.desc(), table.id.desc()).where(*conditions)
    if query.before is not None:
        last = db.session.get(table, query.before) if query.before.isascii() and query.before.isalnum() else None
        if last is None:
            raise RequestInvalid(
                f"before={query.before!r} is not an id of this list. It may have been deleted.", "before"
            )
        asked = asked.where(tuple_(table.created_at, table.id) < tuple_(last.created_at, last.id))  # type: ignore[arg-type]
    rows = list(db.session.scalars(asked.limit(query.limit + 1)))
    shown = rows[: query.limit]
    return shown, shown[-1].id if len(rows) > query.limit else None


def checkpoint_answer(row: Checkpoint, with_facts: bool = True) -> schemas.CheckpointAnswer:
    task = ((row.facts or {}).get("architecture") or {}).get("task")
    answer = schemas.CheckpointAnswer.model_validate(row)
    return answer.model_copy(update={"task": task, "facts": row.facts if with_facts else None})


def run_answer(run: Run, after: int | None = None) -> schemas.RunAnswer:
    lines = select(LogLine).where(LogLine.run_id == run.id)
    if after is None:
        log = list(db.session.scalars(lines.order_by(LogLine.id.desc()).limit(LOG_TAIL)))[::-1]
    else:
        log = list(db.session.scalars(lines.where(LogLine.id > after).order_by(LogLine.id).limit(LOG_MOST)))
    answer = schemas.RunAnswer.model_validate(run)
    return answer.model_copy(update={"log": [schemas.LogAnswer.model_validate(line) for line in log]})


def profile_answer(profile: Profile, with_layers: bool = False) -> schemas.ProfileAnswer:
    answer = schemas.ProfileAnswer.model_validate(schemas.ProfileSummary.model_validate(profile), from_attributes=True)
    if not profile.facts:
        return answer
    left_out = set() if with_layers else {"layers", "cuts"}
    known = {name: value for name, value in profile.facts.items() if name not in {*left_out, "task", "measured"}}
    told = {**known, "measured": [*profile.facts["measured"], *profile.measured]}
    return schemas.ProfileAnswer.model_validate({**answer.model_dump(exclude={"url"}), **told})


def study_answer(study: Study, metric: str = "") -> schemas.StudyAnswer:
    """Raises RequestInvalid for a metric that a sweep's runs do not have."""
    answer = schemas.StudySummary.model_validate(study).model_dump(exclude={"url"})
    if study.kind not in GATHERED:
        rows = [schemas.StudyRunAnswer.model_validate(row) for row in rows_of(study)]
        more = {"progress": progress_of(study), "unit": unit_of(study), "runs": rows}
        return schemas.StudyAnswer.model_validate({**answer, **more, "question": study.question})
    found = told(db.session, study, metric)
    foretold = {row.run.id: row for row in rows_of(study)} if study.kind == "front" else {}
    curve = {name: getattr(found, name) for name in ("axes", "metric", "metrics", "knee")}
    more = {
        "progress": share_done(study.state, found.runs),
        "unit": unit_of(study) if foretold else "",
        "runs": [_swept_answer(run, foretold.get(run.id)) for run in found.runs],
        "sweep": {**curve, "front": sorted(found.front)},
    }
    return schemas.StudyAnswer.model_validate({**answer, **more, "question": study.question})


def _swept_answer(run: SweptRun, foretold: StudyRow | None) -> schemas.StudyRunAnswer:
    return schemas.StudyRunAnswer.model_validate(
        {
            "run": {"id": run.id, "state": str(run.state), "progress": run.progress},
            "title": run.title,
            "size_bytes": run.result.get("size_bytes"),
            "measured": foretold and foretold.measured,
            "expected": foretold and foretold.expected,
            "difference": None,
            "why": "",
            "within": None,
            "wins": False,
            "settings": dict(run.settings),
            "metrics": run.result.get("metrics"),
        }
    )


def share_answer(share: Share) -> schemas.ShareAnswer:
    token = share_token(share.id)
    url = url_for("shares.show", token=token, _external=True)
    return schemas.ShareAnswer(token=token, url=url, created_at=share.created_at)
