"""Deploying a run's artifact: what is wanted is written here, and the deployer of the machine makes it so."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Any, Literal, cast

from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from webapp.engine.architectures import class_names
from webapp.engine.data.tasks import for_task
from webapp.engine.exporters import served_by
from webapp.engine.facts import Task
from webapp.engine.run.stages.export import ExportStage
from webapp.engine.run.stages.original import OriginalStage
from webapp.serving import RUNTIME
from webapp.serving.errors import Unauthorized, Unavailable
from webapp.store.clock import now
from webapp.store.models import Artifact, Deployment, DeploymentState, Run

from .compatibility import architecture_only
from .errors import BodyInvalid, Conflict, NotFound

SLUG = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"
ModelSide = Literal["original", "result"]
TRIED = "try-"  # what the names of models that are only tried begin with
NAMING_ATTEMPTS = 20  # where several are deployed at once


class DeploymentRequest(BaseModel, extra="forbid"):
    run_id: str
    artifact: str | None = Field(None, description="A file of the run that can be served; else the first that can.")
    side: ModelSide = Field(
        "result", description="`original`: the original in the format of that file, to be compared with it."
    )
    name: str | None = Field(None, pattern=SLUG, description="Part of its address; made from the run's name if none.")


def deployable(run: Run) -> list[Artifact]:
    """The run's files that can be served."""
    return [artifact for artifact in run.delivered if artifact.format in served_formats()]


def served_formats() -> dict[str, str]:
    """The titles of the formats that can be served, by their names."""
    return {name: form.title for name, form in served_by(RUNTIME).items()}


def fork_with_one() -> str:
    """What to do with a run that has no file of such a format."""
    return f"fork it with {' or '.join(served_formats().values())} among its formats"


def create_deployment(session: Session, machine: str, asked: DeploymentRequest) -> tuple[Deployment, str]:
    """The row and its token, which is not kept. Raises NotFound, Conflict, BodyInvalid."""
    run = session.get(Run, asked.run_id) if asked.run_id.isalnum() else None
    if run is None:
        raise NotFound(f"There is no run {asked.run_id[:40]!r}. It may have been deleted.", "run_id")
    artifact = next((each for each in deployable(run) if asked.artifact in (each.name, None)), None)
    if artifact is None:
        for row in run.undelivered:
            if row["artifact"] == asked.artifact or (asked.artifact is None and row["format"] in served_formats()):
                raise Conflict(f"{row['artifact']} was not delivered. {row['reason']['message']}", "artifact")
        names = ", ".join(each.name for each in deployable(run))
        way = f"it has {names}" if names else f"{fork_with_one()} and deploy the fork"
        which = f"no file {asked.artifact[:80]!r}" if asked.artifact else "no file"
        raise Conflict(f"The run {run.name} has {which} that can be served; {way}.", "artifact")
    if asked.name and asked.name.startswith(TRIED):
        raise BodyInvalid(
            f"Names that begin with {TRIED} are kept for models that are only tried; take another.", "name"
        )
    if asked.name and session.scalar(select(Deployment.id).where(Deployment.name == asked.name)):
        raise Conflict(f"There is a deployment {asked.name} already; choose another name.", "name")
    stage, facts = stage_of(run, artifact, asked.side), model_facts(run)
    token = secrets.token_urlsafe(24)
    run_id, title = run.id, run.name if asked.side == "result" else f"original of {run.name}"
    for _ in range(NAMING_ATTEMPTS):
        row = Deployment(
            name=asked.name or free_name(session, title),
            run_id=run_id,
            stage=stage,
            artifact=artifact.name,
            about=facts,
            token_hash=hashed(token),
            machine=machine,
        )
        session.add(row)
        try:
            session.commit()
        except IntegrityError:  # another request was first
            session.rollback()
            if asked.name:
                break
            continue
        return row, token
    raise Conflict(f"There is a deployment {row.name} already; choose another name.", "name")


def stage_of(run: Run, artifact: Artifact, side: ModelSide) -> str:
    """Which stage of the run made the side's file. Raises Conflict where the original was not written."""
    stage = (OriginalStage if side == "original" else ExportStage).name_of(artifact.format)
    if not next((made.files for made in run.stages if made.name == stage), None):
        title = served_formats()[artifact.format]
        raise Conflict(
            f"The original of {run.name} could not be written as {title}; only the compressed model is there."
        )
    return stage


def model_facts(run: Run) -> dict[str, Any]:
    """What a graph cannot tell of itself; raises Conflict for weights without an architecture."""
    spec = architecture_only(run.checkpoint.facts or {}).architecture
    if spec is None:
        raise Conflict(f"The run {run.name} is of weights alone; only a model that runs can be served.")
    spec = for_task(spec, cast(Task | None, run.task))
    data = (run.dataset.facts or {}) if run.dataset else {}
    names = class_names(spec) or (data.get("labels") if spec.task and "classification" in spec.task else None)
    return {
        "architecture": spec.model_dump(mode="json"),
        "classes": list(names) if names else None,
        "preprocessing": run.preprocessing or spec.inputs.get("preprocessing"),
    }


def named(session: Session, name: str) -> Deployment | None:
    """The deployment of this name, which may be anything; none that is only tried."""
    if not re.fullmatch(SLUG, name):
        return None
    return session.scalar(select(Deployment).where(Deployment.name == name, Deployment.token_hash.is_not(None)))


def deployment_of(session: Session, name: str) -> Deployment:
    """Raises NotFound."""
    found = named(session, name)
    if found is None:
        raise NotFound(f"There is no deployment {name[:63]!r}. It may have been deleted.")
    return found


def deployments(session: Session) -> list[Deployment]:
    """Newest first, those of try-outs left out."""
    listed = select(Deployment).where(Deployment.token_hash.is_not(None))
    return list(session.scalars(listed.order_by(Deployment.created_at.desc(), Deployment.id)))


def deployed(session: Session, run_id: str, artifact: str) -> list[str]:
    """The names under which a run's file is deployed already."""
    same = (Deployment.run_id == run_id, Deployment.artifact == artifact, Deployment.token_hash.is_not(None))
    rows = session.scalars(select(Deployment).where(*same).order_by(Deployment.created_at, Deployment.id))
    return [row.name for row in rows if not row.of_original]


def restart(session: Session, row: Deployment) -> None:
    """Raises NotFound where it was deleted meanwhile."""
    row.wanted, row.attempt, row.state, row.reason = True, row.attempt + 1, DeploymentState.STARTING, None
    _write(session, row.name)


def stop(session: Session, row: Deployment) -> None:
    """As `restart`."""
    row.wanted, row.state, row.reason = False, DeploymentState.STOPPED, None
    row.pid = row.socket = row.memory_bytes = row.ready_at = None
    _write(session, row.name)


def _write(session: Session, name: str) -> None:
    try:
        session.commit()
    except StaleDataError:
        session.rollback()
        raise NotFound(f"There is no deployment {name!r}. It may have been deleted.") from None


def delete(session: Session, row: Deployment) -> None:
    """The deployer ends its process as soon as it sees that the row is gone."""
    session.delete(row)
    session.commit()


def new_token(session: Session, row: Deployment) -> str:
    """The one before is worth nothing any more."""
    token = secrets.token_urlsafe(24)
    row.token_hash = hashed(token)
    _write(session, row.name)
    return token


def check_token(row: Deployment | None, header: str | None) -> None:
    """Of `Authorization: Bearer …`. Raises Unauthorized, in the same words for an unknown name."""
    kind, _, token = (header or "").partition(" ")
    expected = (row.token_hash if row is not None else None) or "0" * 64
    same = hmac.compare_digest(hashed(token.strip()), expected)
    if row is None or kind.lower() != "bearer" or not same:
        raise Unauthorized("Send this deployment's token: Authorization: Bearer TOKEN.")


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode("utf8", "replace")).hexdigest()


def require_here(found: Deployment, machine: str) -> None:
    """Raises Unavailable where another machine serves it: its process is reached there alone."""
    if found.machine != machine:
        raise Unavailable(f"{found.name} is served by another machine of this installation; ask there.")


def address_of(found: Deployment, machine: str) -> str:
    """The socket of its process. Raises Unavailable, with what it does instead."""
    require_here(found, machine)
    if found.state is DeploymentState.STOPPED:
        raise Unavailable(f"{found.name} is stopped; start it again on its page.")
    if found.state is DeploymentState.FAILED:
        raise Unavailable(f"{found.name} could not be started: {found.reason}")
    if found.state is not DeploymentState.READY or not found.socket:
        raise Unavailable(f"{found.name} is starting; try again in a few seconds.")
    return found.socket


def tryout_deployment(session: Session, machine: str, run: Run, side: ModelSide) -> Deployment:
    """The model that the run's page tries, wanted running. Raises Conflict where the run has no such file."""
    if not (files := deployable(run)):
        raise Conflict(f"The run {run.name} has no file to try; {fork_with_one()}.")
    artifact = files[0]
    stage = stage_of(run, artifact, side)
    name = f"{TRIED}{run.id}-{side}"
    row = session.scalar(select(Deployment).where(Deployment.name == name))
    if row is not None and row.token_hash is not None:
        raise Conflict(f"The deployment {name} has the name of what is only tried; delete it.")
    if row is None:
        row = Deployment(
            name=name, run_id=run.id, stage=stage, artifact=artifact.name, about=model_facts(run), machine=machine
        )
        session.add(row)
    elif row.state is DeploymentState.FAILED and (now() - row.asked_at).total_seconds() > 10:
        row.attempt += 1
    row.asked_at = now()
    try:
        session.commit()
    except IntegrityError:  # another request was first
        session.rollback()
        return session.scalars(select(Deployment).where(Deployment.name == name)).one()
    return row


def slug_of(name: str) -> str:
    """Letters, digits and dashes: part of an address, or a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48].strip("-") or "model"


def free_name(session: Session, run_name: str) -> str:
    """A slug of the run's name that no deployment has."""
    slug = slug_of(run_name)
    slug = f"model-{slug}" if slug.startswith(TRIED) else slug
    taken = set(session.scalars(select(Deployment.name).where(Deployment.name.startswith(slug))))
    numbered = (f"{slug}-{number}" for number in range(2, len(taken) + 3))
    return slug if slug not in taken else next(name for name in numbered if name not in taken)
