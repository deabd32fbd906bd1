"""Rows of the database as the API gives them."""

from __future__ import annotations

from typing import Any, TypeVar

from flask import url_for
from sqlalchemy import Select, select, tuple_

from webapp.actions.errors import RequestInvalid
from webapp.engine.recipe import Recipe
from webapp.store.models import Artifact, Checkpoint, Dataset, Deployment, LogLine, Run, Share
from webapp.web.database import db
from webapp.web.views.shares import share_token

from . import schemas
from .deployment_schemas import DeploymentAnswer

LOG_TAIL, LOG_MOST = 200, 1000  # lines
HEAVY = ("layers", "bytes")  # of what was measured: one row per layer

Row = TypeVar("Row", Checkpoint, Dataset, Run)


def page(table: type[Row], query: schemas.PageQuery) -> tuple[list[Row], str | None]:
    """The rows of one page, newest first, and the id to ask the next with. Raises RequestInvalid."""
    asked: Select[tuple[Row]] = select(table).order_by(table.created_at.desc(), table.id.desc())
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
    return schemas.CheckpointAnswer(
        **upload_fields(row, with_facts), task=task, url=url_for("checkpoints.show", id=row.id)
    )


def dataset_answer(row: Dataset) -> schemas.DatasetAnswer:
    return schemas.DatasetAnswer(**upload_fields(row), split=row.split, url=url_for("datasets.show", id=row.id))


def upload_fields(row: Checkpoint | Dataset, with_facts: bool = True) -> dict[str, Any]:
    names = ("id", "name", "filename", "state", "reason", "size_bytes", "digest", "created_at")
    return {name: getattr(row, name) for name in names} | {"facts": row.facts if with_facts else None}


def run_fields(run: Run) -> dict[str, Any]:
    names = tuple(schemas.RunSummary.model_fields.keys() - {"url", "baseline", "result"})
    return {name: getattr(run, name) for name in names} | {"url": url_for("runs.show", id=run.id)}


def light(measured: dict[str, Any] | None) -> dict[str, Any] | None:
    return measured and {name: value for name, value in measured.items() if name not in HEAVY}


def run_summary(run: Run) -> schemas.RunSummary:
    return schemas.RunSummary(**run_fields(run), baseline=light(run.baseline), result=light(run.result))  # type: ignore[arg-type]


def run_answer(run: Run, after: int | None = None) -> schemas.RunAnswer:
    lines = select(LogLine).where(LogLine.run_id == run.id)
    if after is None:
        log = list(db.session.scalars(lines.order_by(LogLine.id.desc()).limit(LOG_TAIL)))[::-1]
    else:
        log = list(db.session.scalars(lines.where(LogLine.id > after).order_by(LogLine.id).limit(LOG_MOST)))
    stage_names, recipe = tuple(schemas.StageAnswer.model_fields), Recipe.read(run.recipe)
    return schemas.RunAnswer(
        **run_fields(run),
        baseline=run.baseline,  # type: ignore[arg-type]
        result=run.result,  # type: ignore[arg-type]
        recipe=recipe.as_dict(),
        recipe_yaml=recipe.to_yaml(),
        exports=run.exports,
        seed=run.seed,
        preprocessing=run.preprocessing,
        task=run.task,
        attempt=run.attempt,
        stages=[schemas.StageAnswer(**{n: getattr(stage, n) for n in stage_names}) for stage in run.stages],
        artifacts=[artifact_answer(artifact) for artifact in run.artifacts],
        receipt=run.receipt,
        log=[schemas.LogAnswer(id=line.id, stage=line.stage, text=line.text, at=line.at) for line in log],
    )


def artifact_answer(artifact: Artifact) -> schemas.ArtifactAnswer:
    return schemas.ArtifactAnswer(
        name=artifact.name,
        format=artifact.format,
        state=artifact.state.value,
        reason=artifact.reason,  # type: ignore[arg-type]
        digest=artifact.digest,
        size_bytes=artifact.size_bytes,
        proof=artifact.proof,
        url=url_for("api.get_artifact", id=artifact.run_id, name=artifact.name) if artifact.digest else None,
    )


def share_answer(share: Share) -> schemas.ShareAnswer:
    token = share_token(share.id)
    url = url_for("shares.show", token=token, _external=True)
    return schemas.ShareAnswer(token=token, url=url, created_at=share.created_at)


def deployment_answer(row: Deployment) -> DeploymentAnswer:
    names = tuple(DeploymentAnswer.model_fields.keys() - {"url"})
    url = url_for("serve.pass_on", name=row.name, path="v1", _external=True).removesuffix("/v1")
    return DeploymentAnswer(**{name: getattr(row, name) for name in names}, url=url)
