"""The tables. JSON columns hold what the engine's pydantic models dump; the store reads a run's figures there."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Connection,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
    delete,
    event,
    false,
    func,
    insert,
    inspect,
    select,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedSQLExpression,
    Mapper,
    Session,
    column_property,
    mapped_column,
    relationship,
)
from sqlalchemy.types import DateTime, TypeDecorator

from .clock import now
from .events import event_body, run_facts, study_facts
from .figures import NAME_LENGTH, TEXT_LENGTH, figures_of


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC, also where the database (SQLite) keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Raises ValueError."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value} has no time zone; use webapp.store.clock.now() or datetime.now(UTC)")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def state_column(states: type[StrEnum]) -> Enum:
    """A state kept as its word, in 12 characters, and read back as a member of its enum."""
    return Enum(states, native_enum=False, length=12, values_callable=lambda kinds: [kind.value for kind in kinds])


def new_id() -> str:
    """A short random address, safe in a URL: 12 characters of 60 random bits."""
    return "".join(secrets.choice("23456789abcdefghjkmnpqrstuvwxyz") for _ in range(12))


SAMPLES = "samples"  # the format of an artifact that no model runs on: what was answered to each sample


class UploadState(StrEnum):
    """Of a checkpoint or a dataset."""

    INSPECTING = "inspecting"  # the bytes are here; the child process reads them
    READY = "ready"
    REFUSED = "refused"  # `reason` says why


class RunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"  # what was delivered was loaded by a clean process and agreed
    FAILED = "failed"  # `error` says why
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


class StageState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    REUSED = "reused"  # another run had made the same output
    FAILED = "failed"  # `error` says why
    SKIPPED = "skipped"  # an earlier stage of its format failed
    CANCELLED = "cancelled"


class ArtifactState(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # there is no file: `reason` says why


class DeploymentState(StrEnum):
    STARTING = "starting"
    READY = "ready"  # its process answers
    STOPPED = "stopped"
    FAILED = "failed"  # `reason` says why; it is started again when it is asked for


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012
        dict[str, Any]: JSON(none_as_null=True),  # None is SQL's NULL, so that `receipt IS NULL` means what it says
        list[Any]: JSON(none_as_null=True),
        datetime: UtcDateTime(),
        UploadState: state_column(UploadState),
        RunState: state_column(RunState),
        StageState: state_column(StageState),
        ArtifactState: state_column(ArtifactState),
        DeploymentState: state_column(DeploymentState),
    }


class Upload:
    """What checkpoints and datasets have in common."""

    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(200))
    filename: Mapped[str] = mapped_column(String(255))
    state: Mapped[UploadState] = mapped_column(default=UploadState.INSPECTING, index=True)
    reason: Mapped[dict[str, Any] | None]  # {"code", "message"} when refused
    size_bytes: Mapped[int] = mapped_column(BigInteger)  # of what was uploaded
    digest: Mapped[str] = mapped_column(String(64), index=True)  # sha256 of what was uploaded; "" until it is known
    files: Mapped[dict[str, Any]] = mapped_column(default=dict)  # normalised: {path: {"digest", "size_bytes"}}
    facts: Mapped[dict[str, Any] | None]  # CheckpointFacts or DatasetFacts
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)


class Job:
    """What runs, profiles, studies and publications have in common."""

    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    state: Mapped[RunState] = mapped_column(default=RunState.QUEUED, index=True)
    attempt: Mapped[int] = mapped_column(default=1)  # a retry adds one; the workflow's id is "{id}-{attempt}"
    error: Mapped[dict[str, Any] | None]  # {"code", "message", "field"?}
    progress: Mapped[float] = mapped_column(default=0.0)  # of the whole, 0 to 1
    message: Mapped[str] = mapped_column(String(500), default="")  # what it does right now
    seconds_left: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Checkpoint(Upload, Base):
    __tablename__ = "checkpoints"
    dequantize: Mapped[bool] = mapped_column(default=False)  # asked by the uploader: integers become floats again
    task: Mapped[str | None] = mapped_column(String(40))  # as its owner said; None: as the facts tell
    source: Mapped[dict[str, Any] | None]  # where it comes from, {"kind", ...}; None: it was uploaded as one file
    in_place: Mapped[dict[str, Any]] = mapped_column(default=dict)  # not copied: {path: as `files`, "path", "mtime_ns"}
    progress: Mapped[float] = mapped_column(default=0.0)  # of its inspection, 0 to 1
    message: Mapped[str] = mapped_column(String(500), default="")  # what its inspection does right now
    newer_than_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), index=True)  # the version before it
    delivered_by_id: Mapped[str | None] = mapped_column(  # the run that made this very file
        ForeignKey("runs.id", name="checkpoints_delivered_by", use_alter=True), index=True
    )

    best_run_id: ClassVar[MappedSQLExpression[str | None]]  # below

    runs: Mapped[list[Run]] = relationship(back_populates="checkpoint", foreign_keys="Run.checkpoint_id")
    newer_than: Mapped[Checkpoint | None] = relationship(remote_side="Checkpoint.id")
    delivered_by: Mapped[Run | None] = relationship(foreign_keys=[delivered_by_id], viewonly=True)


class Dataset(Upload, Base):
    __tablename__ = "datasets"
    split: Mapped[str] = mapped_column(String(8), default="auto")  # asked by the uploader: "auto" or "all"


class Run(Job, Base):
    """One recipe, applied. Lists of runs read the index `runs_listed`, the figures and the tags, and no JSON column."""

    __tablename__ = "runs"
    __table_args__ = (
        Index(
            "runs_listed", "created_at", "id", "state", "checkpoint_id", "dataset_id", "study_id", "starred", "name"
        ),  # with all that a list is narrowed by, so that the rows, which hold receipts, are not read for it
        Index(
            "runs_by_lineage", "checkpoint_id", "continued_from_id", "forked_from_id", "created_at", "id"
        ),  # likewise
    )

    name: Mapped[str] = mapped_column(String(200))
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"))
    training_dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"))
    teacher_checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"))  # None: the original
    forked_from_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"), index=True)
    continued_from_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"), index=True)  # its steps come first
    best_of_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"), unique=True, index=True)  # by hand
    recipe: Mapped[dict[str, Any]]
    exports: Mapped[list[Any]] = mapped_column(default=lambda: ["safetensors"])
    seed: Mapped[int] = mapped_column(default=0)
    preprocessing: Mapped[dict[str, Any] | None]  # of images, whole; None where no dataset holds any
    task: Mapped[str | None] = mapped_column(String(40))  # by which it is measured; None where nothing is
    study_id: Mapped[str | None] = mapped_column(ForeignKey("studies.id"), index=True)
    role: Mapped[dict[str, Any] | None]  # what it is in its study
    expected: Mapped[dict[str, Any] | None]  # of a run by a budget: {"profile_id", "size_bytes", "loss", "points"?}
    needs: Mapped[dict[str, Any] | None]  # {"memory_bytes", "disk_bytes", "stages"}, at most; None: not foreseen
    blame: Mapped[list[Any] | None]  # layers that are given back one by one; []: those that moved most; None: not asked
    prompts: Mapped[list[Any]] = mapped_column(default=list)  # sets of them, each {"texts", "max_tokens"}
    baseline: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    receipt: Mapped[dict[str, Any] | None]
    starred: Mapped[bool] = mapped_column(default=False, server_default=false())

    checkpoint: Mapped[Checkpoint] = relationship(back_populates="runs", foreign_keys=[checkpoint_id])
    dataset: Mapped[Dataset | None] = relationship(foreign_keys=[dataset_id])
    training_dataset: Mapped[Dataset | None] = relationship(foreign_keys=[training_dataset_id])
    teacher_checkpoint: Mapped[Checkpoint | None] = relationship(foreign_keys=[teacher_checkpoint_id])
    forked_from: Mapped[Run | None] = relationship(remote_side="Run.id", foreign_keys=[forked_from_id])
    continued_from: Mapped[Run | None] = relationship(remote_side="Run.id", foreign_keys=[continued_from_id])
    study: Mapped[Study | None] = relationship(back_populates="runs")
    stages: Mapped[list[Stage]] = relationship(
        back_populates="run", order_by="Stage.position", cascade="all, delete-orphan"
    )
    artifacts: Mapped[list[Artifact]] = relationship(
        back_populates="run", order_by="Artifact.name", cascade="all, delete-orphan"
    )
    note: Mapped[RunNote | None] = relationship(cascade="all, delete-orphan", passive_deletes=True)
    tag_rows: Mapped[list[RunTag]] = relationship(
        order_by="RunTag.tag", cascade="all, delete-orphan", passive_deletes=True
    )

    @property
    def notes(self) -> str:
        """Markdown."""
        return self.note.text if self.note is not None else ""

    @property
    def tags(self) -> list[str]:
        return [row.tag for row in self.tag_rows]

    @property
    def delivered(self) -> list[Artifact]:
        """The artifacts that there is a file of, those that only go with the weights, or tell of them, last."""
        found = [artifact for artifact in self.artifacts if artifact.digest is not None]
        return sorted(found, key=lambda artifact: artifact.format in ("companion", SAMPLES))

    @property
    def undelivered(self) -> list[dict[str, Any]]:
        """The formats that failed, as the receipt has them."""
        return list((self.receipt or {}).get("undelivered", ()))


class RunNote(Base):
    """What somebody wrote of a run. Beside the runs, so that a search reads the few that there are and no receipts."""

    __tablename__ = "run_notes"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    text: Mapped[str] = mapped_column(Text)  # Markdown


class RunTag(Base):
    __tablename__ = "run_tags"
    __table_args__ = (Index("runs_by_tag", "tag", "run_id"), {"sqlite_with_rowid": False})

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(40), primary_key=True)


class RunFigure(Base):
    """One of a run's figures (see figures.py), written with the run itself. Sorted by value, then text."""

    __tablename__ = "run_figures"
    __table_args__ = (Index("runs_by_figure", "name", "value", "text", "run_id"), {"sqlite_with_rowid": False})

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), primary_key=True)
    value: Mapped[float]
    text: Mapped[str] = mapped_column(String(TEXT_LENGTH), default="")


Checkpoint.best_run_id = column_property(  # of its runs the one that was promoted
    select(Run.id).where(Run.best_of_id == Checkpoint.id).correlate_except(Run).scalar_subquery()
)


@event.listens_for(Run, "after_insert")
@event.listens_for(Run, "after_update")
def keep_figures(mapper: Mapper[Run], connection: Connection, run: Run) -> None:
    """Whoever writes a run writes its figures, so that a list never tells another size than the receipt."""
    read = inspect(run).attrs
    if any(read[name].history.has_changes() for name in ("recipe", "result", "receipt", "started_at", "finished_at")):
        connection.execute(delete(RunFigure).where(RunFigure.run_id == run.id))
        rows = [
            {"run_id": run.id, "name": name, "value": value, "text": text}
            for name, (value, text) in figures_of(run).items()
        ]
        if rows:
            connection.execute(insert(RunFigure), rows)


class Profile(Job, Base):
    """What each option of each layer saves and costs; `key` is the hash of everything that this depends on."""

    __tablename__ = "profiles"
    __table_args__ = (Index("profiles_by_key", "key", "state"),)

    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id", ondelete="CASCADE"), index=True)
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    training_dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    seed: Mapped[int] = mapped_column(default=0)
    preprocessing: Mapped[dict[str, Any] | None]  # as a run's
    task: Mapped[str | None] = mapped_column(String(40))
    key: Mapped[str] = mapped_column(String(64))
    facts: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)  # ProfileFacts: megabytes; they do not change
    measured: Mapped[list[Any]] = mapped_column(default=list)  # by runs, each as the engine's Measurement

    checkpoint: Mapped[Checkpoint] = relationship()
    dataset: Mapped[Dataset | None] = relationship(foreign_keys=[dataset_id])
    training_dataset: Mapped[Dataset | None] = relationship(foreign_keys=[training_dataset_id])


class Study(Job, Base):
    """Runs that answer one question. The runs stay when it is deleted."""

    __tablename__ = "studies"

    name: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(40))  # "race", "smallest", "front", "sweep"
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id", ondelete="CASCADE"), index=True)
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    profile_id: Mapped[str | None] = mapped_column(ForeignKey("profiles.id", ondelete="SET NULL"))
    question: Mapped[dict[str, Any]]
    conclusion: Mapped[dict[str, Any] | None]
    taken_run_id: Mapped[str | None] = mapped_column(String(12))  # chosen by a person; it may have been deleted since

    checkpoint: Mapped[Checkpoint] = relationship()
    dataset: Mapped[Dataset | None] = relationship()
    profile: Mapped[Profile | None] = relationship()
    runs: Mapped[list[Run]] = relationship(back_populates="study", order_by="Run.created_at")


class Publication(Job, Base):
    """A result on its way to a hub, or there."""

    __tablename__ = "publications"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    repo_id: Mapped[str] = mapped_column(String(200))
    private: Mapped[bool] = mapped_column(default=True)
    url: Mapped[str | None] = mapped_column(String(1000))  # of the commit

    run: Mapped[Run] = relationship()


class Stage(Base):
    """One durable step of a run, and the cache of what it made: `key` is the hash of everything it depends on."""

    __tablename__ = "stages"
    __table_args__ = (UniqueConstraint("run_id", "name"), Index("stages_by_key", "key", "state"))

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    position: Mapped[int]
    name: Mapped[str] = mapped_column(String(80))  # "baseline", "step-1", "export-safetensors", "verify-safetensors"
    title: Mapped[str] = mapped_column(String(200))
    key: Mapped[str] = mapped_column(String(64))
    state: Mapped[StageState] = mapped_column(default=StageState.WAITING)
    files: Mapped[dict[str, Any]] = mapped_column(default=dict)  # its output: {path: {"digest", "size_bytes"}}
    facts: Mapped[dict[str, Any] | None]  # what the stage returned
    error: Mapped[dict[str, Any] | None]  # {"code", "message"} where it failed and the run goes on
    curves: Mapped[dict[str, Any] | None]  # drawn while it went on: {series: {"x": [...], "values": {name: [...]}}}
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    run: Mapped[Run] = relationship(back_populates="stages")


class Artifact(Base):
    """A file that the user can download; or one that was asked for and failed, of which nothing is kept."""

    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("run_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(200))  # "model.safetensors"
    format: Mapped[str] = mapped_column(String(40))
    state: Mapped[ArtifactState] = mapped_column(default=ArtifactState.SUCCEEDED)
    reason: Mapped[dict[str, Any] | None]  # {"code", "message"} where it failed
    digest: Mapped[str | None] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    proof: Mapped[dict[str, Any] | None]  # who loaded it, with what, largest difference

    run: Mapped[Run] = relationship(back_populates="artifacts")

    @property
    def private(self) -> bool:
        """Whether it holds samples of the dataset: it is not for those who hold a link, nor for a hub."""
        return self.format == SAMPLES


class LogLine(Base):
    """The live log of a run."""

    __tablename__ = "log_lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    stage: Mapped[str] = mapped_column(String(80), default="")
    text: Mapped[str]
    at: Mapped[datetime] = mapped_column(default=now)


class Share(Base):
    """A revocable, read-only address of a run, a comparison or a study. Its token is derived: it does not lie here."""

    __tablename__ = "shares"

    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    run_ids: Mapped[list[Any]]  # one run, or those of a comparison; none of a study's, which may get more
    view: Mapped[dict[str, Any]] = mapped_column(default=dict)  # a comparison's query: axes, sorting; {"study": id}
    created_at: Mapped[datetime] = mapped_column(default=now)
    revoked_at: Mapped[datetime | None]


class KeptAnswer(Base):
    """What a request with an Idempotency-Key was answered, to be said again; without a status it is being worked on."""

    __tablename__ = "kept_answers"

    key_hash: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256 of the key
    request_hash: Mapped[str] = mapped_column(String(64))  # SHA-256 of method, address and body
    status: Mapped[int | None]
    sealed: Mapped[bytes | None]  # the JSON, which only the secret key and the key open
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)


class Worker(Base):
    """A worker's heartbeat: who takes over what it held is decided by `seen_at`."""

    __tablename__ = "workers"

    executor_id: Mapped[str] = mapped_column(String(80), primary_key=True)
    host: Mapped[str] = mapped_column(String(200))
    pid: Mapped[int]
    able: Mapped[dict[str, Any] | None]  # what it can (see webapp/jobs/abilities.py)
    started_at: Mapped[datetime] = mapped_column(default=now)
    seen_at: Mapped[datetime] = mapped_column(default=now)


THE_ORIGINAL = "The original"


class Deployment(Base):
    """A model that is served, or (without a token) one that a run's page tries. What is wanted is written by requests,
    what is there by the deployer of the machine."""

    __tablename__ = "deployments"

    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(63), unique=True)  # part of its address
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    stage: Mapped[str] = mapped_column(String(80))  # of the run, whose files are served: "export-onnx", "original-onnx"
    artifact: Mapped[str] = mapped_column(String(200))  # the file among them: "model.onnx"
    about: Mapped[dict[str, Any]]  # {"architecture", "classes", "preprocessing"}
    token_hash: Mapped[str | None] = mapped_column(String(64))  # SHA-256 of what requests must carry
    machine: Mapped[str] = mapped_column(String(200))  # on which it runs
    wanted: Mapped[bool] = mapped_column(default=True)
    attempt: Mapped[int] = mapped_column(default=1)  # one more for each time that it is asked for anew
    asked_at: Mapped[datetime] = mapped_column(default=now)  # when it was last wanted; ends one that is only tried

    state: Mapped[DeploymentState] = mapped_column(default=DeploymentState.STARTING)
    reason: Mapped[str | None] = mapped_column(String(1000))
    socket: Mapped[str | None] = mapped_column(String(200))
    pid: Mapped[int | None]
    deaths: Mapped[int] = mapped_column(default=0)  # how often its process had to be started again
    requests: Mapped[int] = mapped_column(BigInteger, default=0)
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    signature: Mapped[dict[str, Any] | None]
    ready_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)

    run: Mapped[Run] = relationship(foreign_keys=[run_id])

    @property
    def of_original(self) -> bool:
        """Whether what it serves is the original, in the format of the run's file."""
        return self.stage.startswith("original-")

    @property
    def title(self) -> str:
        """What people call it: what is only tried beside a deployment has no name of its own."""
        return self.name if self.token_hash is not None else THE_ORIGINAL


KEPT_MINUTES = 24 * 60  # of a deployment's requests


class DeploymentMinute(Base):
    """What a deployment's process measured of its requests in one minute (see webapp/serving/traffic.py)."""

    __tablename__ = "deployment_minutes"
    __table_args__ = ({"sqlite_with_rowid": False},)

    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"), primary_key=True)
    minute: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)  # since 1970
    started_at: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)  # its process, seconds
    requests: Mapped[int]
    errors: Mapped[dict[str, Any]]  # {status: requests}
    latencies: Mapped[dict[str, Any]]  # {bin: answered requests}


class Replay(Job, Base):
    """A dataset sent through a deployment, and maybe through another one in turns; the deployer's machine does it."""

    __tablename__ = "replays"

    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"), index=True)
    beside_id: Mapped[str | None] = mapped_column(ForeignKey("deployments.id", ondelete="SET NULL"), index=True)
    samples: Mapped[int]  # at most
    seconds: Mapped[float]  # at most
    result: Mapped[dict[str, Any] | None]  # what webapp/serving/replay.py tells

    deployment: Mapped[Deployment] = relationship(foreign_keys=[deployment_id])
    beside: Mapped[Deployment | None] = relationship(foreign_keys=[beside_id])


class Webhook(Base):
    """An address elsewhere that is told when runs and studies end. Its secret is derived: it does not lie here."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    url: Mapped[str] = mapped_column(String(2000))
    events: Mapped[list[Any]]  # names, as in events.py
    enabled: Mapped[bool] = mapped_column(default=True)
    own_address: Mapped[str] = mapped_column(String(500))  # Pare's, with which the links of its messages begin
    secret_number: Mapped[int] = mapped_column(default=1)  # one more for each new secret
    created_at: Mapped[datetime] = mapped_column(default=now)


class WebhookDelivery(Base):
    """A message for a webhook, written with the end that it tells of, and sent by whichever worker looks first."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("webhook_deliveries_due", "state", "due_at"),
        Index("webhook_deliveries_latest", "webhook_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)  # goes with it, to be known again
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(200))  # the name of what ended
    body: Mapped[str] = mapped_column(Text)  # JSON, the same at every try
    state: Mapped[RunState] = mapped_column(default=RunState.QUEUED)  # or succeeded, or failed: not tried any more
    tries: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime] = mapped_column(default=now)  # of the next try; of one under way, when it is given up
    status: Mapped[int | None]  # what was answered last
    error: Mapped[str | None] = mapped_column(String(1000))  # of the last try
    created_at: Mapped[datetime] = mapped_column(default=now)
    tried_at: Mapped[datetime | None]

    webhook: Mapped[Webhook] = relationship()


@event.listens_for(Session, "before_flush")
def keep_events(session: Session, *_: object) -> None:
    """Whoever writes that a run or study has ended writes what its webhooks are to be told: both are there, or none."""
    ended = [row for row in session.dirty if isinstance(row, Run | Study) and _has_ended(session, row)]
    if not ended:
        return
    listening = select(Webhook).where(Webhook.enabled)
    for webhook in session.scalars(listening.with_for_update(read=True, key_share=True)).all():  # stays until then
        for row in ended:
            name = f"{type(row).__name__.lower()}.{row.state}"
            if name in webhook.events:
                body = event_body(name, _facts(session, row, webhook.own_address), row.finished_at or now())
                session.add(WebhookDelivery(webhook_id=webhook.id, event=name, subject=row.name, body=body))


def _has_ended(session: Session, row: Run | Study) -> bool:
    """Just now, for the first time: a run that has delivered, and tries a format again or is asked more, did before."""
    attributes: Any = inspect(row)
    if isinstance(row, Run):
        receipt = attributes.attrs.receipt.history
        first: set[str] = session.info.setdefault("first receipts", set())  # receipt and state may come in two flushes
        if any(receipt.added or ()) and not any(receipt.deleted or ()):
            first.add(row.id)
        if row.id not in first and any(receipt.deleted or receipt.unchanged or ()):
            return False
    return bool(attributes.attrs.state.history.added) and row.state.final


def _facts(session: Session, row: Run | Study, address: str) -> dict[str, Any]:
    if isinstance(row, Run):
        return run_facts(row, address)
    states = select(Run.state, func.count()).where(Run.study_id == row.id).group_by(Run.state)  # not their receipts
    counts: dict[str, int] = {}
    for state, count in session.execute(states).tuples():
        ends = state if state.final or row.state is not RunState.CANCELLED else RunState.CANCELLED  # with their study
        counts[str(ends)] = counts.get(str(ends), 0) + count
    return study_facts(row, counts, address)
