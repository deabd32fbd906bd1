"""What the API takes and gives. The document at /api/v1/openapi.json is made from these."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from flask import url_for
from pydantic import AliasPath, BaseModel, BeforeValidator, Field, computed_field, model_validator

from webapp.actions.run_requests import AskedRecipe
from webapp.actions.traffic import Window
from webapp.engine.profiles.facts import Cut, LayerOptions, LossUnit, Measurement
from webapp.engine.recipe import Recipe
from webapp.engine.run.footprint import RunFootprint
from webapp.engine.run.predict import StepMatches, Totals

Row = TypeVar("Row")
LARGEST_PAGE = 200
LARGEST_LINE = 2**53  # ids of log lines; JSON's whole numbers end here


class RequestBody(BaseModel, extra="forbid"):
    """Unknown keys are refused."""


class RowAnswer(BaseModel, from_attributes=True):
    """Made from what has attributes of these names, such as a row of the database."""


class Items(BaseModel, Generic[Row]):
    items: list[Row]


class Page(Items[Row], Generic[Row]):
    next: str | None = Field(description="Give it as `before` for the next page; null on the last.")


class ErrorBody(BaseModel):
    code: str = Field(description="For programs; it does not change.")
    message: str = Field(description="A sentence for people.")
    field: str | None = Field(None, description="Which part of the request it is about, such as steps.0.settings.bits.")


class ErrorAnswer(BaseModel):
    """Every error has this shape."""

    error: ErrorBody


class PageQuery(RequestBody):
    limit: int = Field(50, ge=1, le=LARGEST_PAGE, description="How many, newest first.")
    before: str | None = Field(None, max_length=12, description="Only those older than this id: `next` of a page.")


TASK = (
    "What the model is for: classification, embedding, regression, segmentation, causal-lm (a language model) or "
    "distance (only the distance to the original is measured)."
)


class CheckpointQuery(RequestBody):
    name: str = Field(description="The file's name, such as model.safetensors; at most 200 characters.")
    dequantize: bool = Field(
        False,
        description="Turn weights that are quantized already into floats again; else those that Pare can store stay as "
        "they are, and others are refused.",
    )
    task: str | None = Field(None, max_length=40, description=TASK)
    newer_than_id: str | None = Field(None, max_length=12, description="A checkpoint of which it is the next version.")


class FileQuery(RequestBody):
    name: str = Field(max_length=200, description="Its path in the folder, such as config.json.")


class FolderRequest(RequestBody):
    name: str = Field(max_length=400, description="What the checkpoint is called: the folder's name.")
    files: dict[str, str] = Field(min_length=1, description="The id of each upload by the file's path in the folder.")
    dequantize: bool = Field(False, description="Turn weights that are quantized already into floats again.")
    task: str | None = Field(None, max_length=40, description=TASK)
    newer_than_id: str | None = Field(None, max_length=12, description="A checkpoint of which it is the next version.")


class ImportRequest(RequestBody):
    """A path, or the name of a model on the hub."""

    path: str | None = Field(None, max_length=4000, description="As GET /imports lists it, or below one of these.")
    repo_id: str | None = Field(None, max_length=200, description="The owner's name, a slash and the model's.")
    revision: str | None = Field(None, max_length=200, description="With repo_id: a branch, tag or commit; else main.")
    dequantize: bool = Field(False, description="Turn weights that are quantized already into floats again.")
    task: str | None = Field(None, max_length=40, description=TASK)
    newer_than_id: str | None = Field(None, max_length=12, description="A checkpoint of which it is the next version.")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        """Raises ValueError."""
        if (self.path is None) == (self.repo_id is None):
            raise ValueError("Name a path, or a repo_id, and not both.")
        if self.path is not None and self.revision is not None:
            raise ValueError("A revision is one of a repo_id.")
        return self


class ImportableAnswer(RowAnswer):
    path: str
    name: str
    size_bytes: int = Field(description="Of its weights.")


class CheckpointChanges(RequestBody):
    task: str | None = Field(None, max_length=40, description=f"{TASK} Null: as its architecture tells.")
    best_run_id: str | None = Field(
        None, max_length=12, description="The best of its runs so far; only one that succeeded. Null: none is."
    )
    newer_than_id: str | None = Field(
        None, max_length=12, description="The checkpoint of which it is the next version. Null: of none."
    )


class DatasetQuery(RequestBody):
    name: str = Field(description="The file's name, such as model.safetensors; at most 200 characters.")
    split: str | None = Field(
        None,
        description='"auto" (the first 70 % train, or as an .npz or the folders say) or "all" (all evaluates).',
    )


class DraftAnswer(BaseModel):
    """One of the last three is there once the file is whole."""

    id: str
    offset_bytes: int = Field(description="How much has come: the Upload-Offset at which it goes on.")
    size_bytes: int
    checkpoint_id: str | None
    dataset_id: str | None
    digest: str | None = Field(description="SHA-256 of a file of a folder.")


class RunsFilter(RequestBody):
    """Which runs, as the table of runs, whose address has the same parameters."""

    q: str = Field("", max_length=200, description="Words that name, id, checkpoint, notes or tags hold, all of them.")
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"] | None = None
    checkpoint: str = Field("", max_length=12, description="Its id.")
    dataset: str = Field("", max_length=12, description="That evaluates: its id.")
    study: str = Field("", max_length=12, description="Its id.")
    technique: str = Field("", max_length=100, description="That some step has, such as gptq.")
    tag: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default_factory=list, max_length=8, description="That it has, all of them."
    )
    starred: bool = Field(False, description="Only those with a star.")
    sort: str = Field(
        "-created",
        max_length=120,
        description="name, created, state, checkpoint, dataset, study, tags, or a figure: size_bytes, times_smaller, "
        "sparsity, speed, seconds, metric.NAME, change.NAME, setting.TECHNIQUE.NAME …; with - before it the largest "
        "come first. What has no value comes last.",
    )


class RunsQuery(RunsFilter):
    """A page of them."""

    limit: int = Field(50, ge=1, le=LARGEST_PAGE, description="How many.")
    before: str | None = Field(None, max_length=1200, description="The `next` of a page: only what comes after it.")


class RunsTableQuery(RunsQuery):
    """`column` is that of the CSV."""

    column: list[str] = Field(default_factory=list, max_length=30, description="Those of the table; any that can sort.")


class RunsActionRequest(RequestBody):
    """Something that is done to many runs: to those named, or to all that `view` finds, which has no pages."""

    action: Literal["star", "unstar", "tag", "untag", "cancel", "retry", "delete"]
    run_ids: list[str] = Field(default_factory=list, max_length=10_000)
    view: RunsFilter | None = Field(None, description="As `GET /runs` reads it, without limit and before.")
    tags: list[str] = Field(default_factory=list, max_length=20, description="To add or to take away.")

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        """Raises ValueError."""
        if bool(self.run_ids) == (self.view is not None):
            raise ValueError("Name run_ids, or a view, and not both.")
        return self


class RunsActionAnswer(BaseModel):
    done: int = Field(description="Runs that it was done to.")
    left: list[str] = Field(description="A sentence for each of the others.")


class RunQuery(RequestBody):
    after: int | None = Field(
        None, ge=0, le=LARGEST_LINE, description="Only log lines after this id; else the last 200."
    )


class ComparisonView(RequestBody):
    metric: str = Field("", description="Of the table; y is it unless y is given.")
    x: str = Field(
        "size_bytes",
        description="size_bytes, params_nonzero, bits_per_weight, time_ratio and the others of the answer's axes.",
    )
    y: str = Field("", description="Likewise; the metric where it is not given.")
    scale: str = Field("auto", description="auto, linear or log.")
    colour: str = Field("", description="technique, checkpoint, dataset, study, tag or a setting; else by origin.")
    lines: str = Field("study", description="study: a line through the runs of one; or none.")
    zoom: str = Field("", description="The ends of the x axis, then of the y axis, as the chart counts them.")
    sort: str = Field("", description="A column of the table.")
    order: str = Field("asc", description="asc or desc.")
    layer_sort: str = Field("", description='"layer", or a figure and the number of a run: bits.1.')
    layer_order: str = Field("asc", description="asc or desc.")
    layers: str = Field("differing", description="differing or all.")


class CompareQuery(ComparisonView):
    run: list[str] = Field(default_factory=list, description="The runs, one parameter each.")
    study: list[str] = Field(default_factory=list, description="Studies, whose runs are compared too.")


class PredictRequest(RequestBody):
    checkpoint_id: str | None = None
    run_id: str | None = Field(None, description="In place of a checkpoint: a run that the recipe's steps continue.")
    recipe: AskedRecipe
    dataset_id: str | None = Field(None, description="With it, or null, the warnings name steps that lack data.")
    training_dataset_id: str | None = None
    teacher_checkpoint_id: str | None = None
    exports: list[str] = Field(default_factory=list, max_length=8)

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        """Raises ValueError."""
        if (self.checkpoint_id is None) == (self.run_id is None):
            raise ValueError("a recipe is for a checkpoint_id, or continues a run_id, one of the two")
        return self


class ParseRequest(RequestBody):
    text: str = Field(description="A recipe in YAML or JSON.")


class ComparisonShareRequest(ComparisonView):
    run_ids: list[str] = Field(min_length=1)


class UploadAnswer(RowAnswer):
    id: str
    name: str
    filename: str
    state: Literal["inspecting", "ready", "refused"]
    reason: dict[str, Any] | None = Field(description="When refused: code and message.")
    size_bytes: int = Field(description="Of what was uploaded.")
    digest: str = Field(description='SHA-256 of what was uploaded; "" where that is not known yet.')
    created_at: datetime


class CheckpointAnswer(UploadAnswer):
    """A checkpoint; in lists `facts` is null."""

    task: str | None = Field(description="What it is for; null where the dataset of a run decides, or nothing runs.")
    source: dict[str, Any] | None = Field(
        description="Where it comes from: kind (path, hub or files) and what tells it; null for one uploaded file."
    )
    best_run_id: str | None = Field(description="The best of its runs so far, as somebody said.")
    newer_than_id: str | None = Field(description="The checkpoint of which it is the next version.")
    delivered_by_id: str | None = Field(description="The run that made this very file, where Pare did.")
    progress: float = Field(description="Of its inspection, 0 to 1.")
    message: str = Field(description="What its inspection does right now.")
    facts: dict[str, Any] | None = Field(description="What inspection found: tensors, layers, architecture.")

    @computed_field
    def url(self) -> str:
        return url_for("checkpoints.show", id=self.id)


class DatasetAnswer(UploadAnswer):
    split: str
    facts: dict[str, Any] | None = Field(description="What inspection found: kind, sizes of the split, labels.")

    @computed_field
    def url(self) -> str:
        return url_for("datasets.show", id=self.id)


class TechniqueAnswer(RowAnswer):
    name: str
    title: str
    summary: str
    paper: str
    version: int
    needs: Annotated[list[str], BeforeValidator(sorted)]
    layers: Annotated[list[str], BeforeValidator(sorted)]
    settings: Annotated[dict[str, Any], BeforeValidator(lambda kind: kind.model_json_schema())] = Field(
        validation_alias="Settings", description="JSON schema of the settings; `unit` and `widget` ride along."
    )


class MatchesAnswer(BaseModel):
    matches: list[StepMatches] = Field(description="One per step.")
    recipe_yaml: str


class PredictAnswer(MatchesAnswer):
    prediction: dict[str, Any] = Field(
        description="before and after (bytes, parameters, sparsity), steps (those of a continued run too), warnings, "
        "and what no step reaches."
    )
    recipe: dict[str, Any]
    needs: RunFootprint | None = Field(description="Memory and disk of the run at most; null where it cannot be told.")


class ParseAnswer(BaseModel):
    recipe: dict[str, Any]
    recipe_yaml: str


class Open(BaseModel, extra="allow"):
    """More may be in it than is told here."""


class MetricAnswer(Open):
    value: float | None
    n: int | None = None
    ci95: list[float] | None = None


class LatencyAnswer(Open):
    p50: float
    p95: float


class SpeedAnswer(Open):
    """Beside the run's own original, in the same runtime, in turns; a baseline's is 1."""

    ratio: float = Field(description="How many times as fast it is.")
    ci95: list[float] | None = None
    disturbed: str | None = Field(None, description="What disturbed the measurement, which was repeated before.")


class MeasuredAnswer(Totals, extra="allow"):
    """What was measured on a file. MB is 10^6 bytes; sparsity is 0 to 1."""

    metrics: dict[str, MetricAnswer]
    latency_ms: LatencyAnswer | None = None
    speed: SpeedAnswer | None = None


class MeasuredSummary(MeasuredAnswer):
    layers: Any = Field(None, exclude=True)  # one row for each
    bytes: Any = Field(None, exclude=True)


class ArtifactAnswer(RowAnswer):
    """A file to download, or a format that was asked for and failed: it has a reason in place of a file."""

    run_id: str = Field(exclude=True)
    name: str
    format: str
    state: Literal["succeeded", "failed"]
    reason: ErrorBody | None = Field(description="Why the format failed, where it did.")
    digest: str | None = Field(description="SHA-256; also the download's ETag.")
    size_bytes: int | None
    proof: dict[str, Any] | None

    @computed_field(description="Where to download it.")
    def url(self) -> str | None:
        return url_for("api.get_artifact", id=self.run_id, name=self.name) if self.digest else None


class PackageAnswer(RowAnswer):
    name: str
    title: str
    summary: str


class CurveAnswer(BaseModel):
    """One series of a curve; each list of values is as long as `x`."""

    x: list[float]
    values: dict[str, list[float | None]] = Field(description="By what is measured, with its unit.")


class StageAnswer(RowAnswer):
    name: str
    title: str
    state: Literal["waiting", "running", "succeeded", "reused", "failed", "skipped", "cancelled"]
    error: ErrorBody | None = Field(None, description="Why a format's stage failed; skipped are those that follow it.")
    started_at: datetime | None
    finished_at: datetime | None
    curves: dict[str, CurveAnswer] | None = Field(
        None,
        description="Drawn while the stage goes on, such as the losses of a training: by series, at most 500 points.",
    )


class LogAnswer(RowAnswer):
    id: int
    stage: str
    text: str
    at: datetime


class JobSummary(RowAnswer):
    """What a run, a profile and a study have in common."""

    id: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    message: str
    error: dict[str, Any] | None
    checkpoint_id: str
    dataset_id: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class RunSummary(JobSummary):
    """A run as lists show it: `baseline` and `result` without their layers."""

    name: str
    tags: list[str]
    starred: bool
    study_id: str | None = Field(description="Of the study that it belongs to.")
    training_dataset_id: str | None
    teacher_checkpoint_id: str | None
    forked_from_id: str | None
    continued_from_id: str | None = Field(description="Of the run whose steps are the first of its recipe.")
    progress: float = Field(description="Of the whole run, 0 to 1.")
    seconds_left: float | None
    baseline: MeasuredSummary | None
    result: MeasuredSummary | None
    undelivered: list[dict[str, Any]] = Field(description="Formats that failed: artifact, format, title, reason.")

    @computed_field
    def url(self) -> str:
        return url_for("runs.show", id=self.id)


class RunAnswer(RunSummary):
    baseline: MeasuredAnswer | None
    result: MeasuredAnswer | None
    recipe: Annotated[dict[str, Any], BeforeValidator(lambda stored: Recipe.read(stored).as_dict())]
    exports: list[str]
    seed: int
    preprocessing: dict[str, Any] | None = Field(description="How images are prepared; null without images.")
    task: str | None = Field(description="What it is measured by; null where nothing is.")
    expected: dict[str, Any] | None = Field(description="By its budget: profile_id, size_bytes, loss, points.")
    needs: RunFootprint | None = Field(description="Memory and disk at most, foreseen before it ran.")
    notes: str = Field(description="Markdown; HTML in it is shown as it stands.")
    attempt: int
    stages: list[StageAnswer]
    artifacts: list[ArtifactAnswer]
    receipt: dict[str, Any] | None
    log: list[LogAnswer] = []

    @computed_field
    def recipe_yaml(self) -> str:
        return Recipe.read(self.recipe).to_yaml()


class LineageAnswer(RowAnswer):
    """A checkpoint or a run, and below it what came of it."""

    kind: Literal["checkpoint", "run"]
    id: str
    name: str
    state: str
    how: str = Field(
        description='It comes from what it stands below: continued, forked, uploaded again, newer version; "": a run.'
    )
    size_bytes: int | None
    metric: str = Field(description="Of its quality.")
    quality: float | None
    best: bool = Field(description="It is the best of its checkpoint so far.")
    current: bool = Field(description="It is the one that was asked for.")
    children: list[LineageAnswer]
    more: int = Field(description="That stand below it too and are not told here.")


class ProfileSummary(JobSummary):
    training_dataset_id: str | None
    seed: int
    preprocessing: dict[str, Any] | None = Field(description="How images are prepared; null without images.")
    task: str | None = Field(description="What decides how a loss is measured.")
    attempt: int
    progress: float = Field(description="0 to 1.")
    seconds_left: float | None

    @computed_field
    def url(self) -> str:
        return url_for("fit.show", id=self.checkpoint_id, profile=self.id)


class ProfileAnswer(ProfileSummary):
    """What it found is there once it has succeeded."""

    unit: LossUnit | None = Field(None, description="Of every loss: for each sample or token.")
    samples: int | None = Field(None, description="Rows, images or texts that it saw.")
    tokens: int | None = None
    seconds: float | None = Field(None, description="That it took.")
    measured: list[Measurement] = Field([], description="Recipes that were measured, by the profile or by runs since.")
    layers: list[LayerOptions] | None = Field(None, description="With ?layers=1: what may be done to each layer.")
    cuts: list[Cut] | None = Field(None, description="With ?layers=1: channels, heads and blocks that may leave.")


class WorkerAnswer(BaseModel):
    """What it told of itself when it began."""

    id: str
    host: str
    started_at: datetime
    silent_seconds: float = Field(description="Since its last sign of life.")
    memory_bytes: int = Field(description="The most that a run on it may allocate; 0: no limit.")
    device: str = Field(description="What it could compute on: cpu, cuda with the model, or mps.")
    runtimes: dict[str, str] = Field(description="Packages that not every installation has, with their versions.")


class PublicationRequest(RequestBody):
    repo_id: str = Field(
        max_length=200, description="The owner's name, a slash and the model's: a new one, or of Pare."
    )
    private: bool = Field(True, description="Seen by its owner alone, where it is made by this.")


class PublicationAnswer(RowAnswer):
    id: str
    run_id: str
    repo_id: str
    private: bool
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: float = Field(description="0 to 1.")
    message: str
    error: dict[str, Any] | None
    url: str | None = Field(description="Of the commit, once it has succeeded.")
    created_at: datetime
    finished_at: datetime | None


class ProfilesQuery(PageQuery):
    checkpoint: str | None = Field(None, max_length=12, description="Only those of this checkpoint.")


class ProfileQuery(RequestBody):
    layers: bool = Field(False, description="With every option of every layer.")


class StudySummary(JobSummary):
    """Runs that answer one question, as lists show them."""

    name: str
    kind: str = Field(description="race, smallest, front or sweep.")
    profile_id: str | None
    conclusion: dict[str, Any] | None = Field(
        description="Once it has succeeded: the id of the run that is the answer (winner), and why, as a sentence."
    )
    taken_run_id: str | None = Field(description="The run that a person chose to go on with.")

    @computed_field
    def url(self) -> str:
        return url_for("studies.show", id=self.id)


class LostAnswer(RowAnswer):
    value: float | None = Field(description="Null where the answers are no numbers.")
    low: float | None
    high: float | None


class StudyRunAnswer(RowAnswer):
    """A run of a study, with what it lost and was expected to lose in the study's unit."""

    id: str = Field(validation_alias=AliasPath("run", "id"))
    state: str = Field(validation_alias=AliasPath("run", "state"))
    progress: float = Field(validation_alias=AliasPath("run", "progress"))
    title: str
    size_bytes: int | None
    measured: LostAnswer | None = Field(description="With its 95 % interval.")
    expected: dict[str, Any] | None = Field(description="value, low and high: an 80 % interval.")
    difference: dict[str, Any] | None = Field(description="The budget's less this one's, paired: ci95 and verdict.")
    why: str = Field(description="Why this size was tried, where the study chose it.")
    within: bool | None = Field(description="The tolerance, where there is one.")
    wins: bool
    settings: dict[str, Any] | None = Field(None, description="Of a sweep: what it has of each axis, by its path.")
    metrics: dict[str, Any] | None = Field(None, description="Of a sweep or front: as the run's result has them.")


class SweepAnswer(BaseModel):
    """Of a sweep or a front: what differs, and what the curve shows."""

    axes: list[dict[str, Any]] = Field(description="What differs: path, title and values.")
    metric: str = Field(description="Of the curve; give another as `metric`. Empty before a run has any.")
    metrics: dict[str, str] = Field(description="That some run has: titles by names.")
    knee: str | None = Field(description="The run after which more bytes buy least.")
    front: list[str] = Field(description="The runs that no other beats in both size and quality.")


class StudyQuery(RequestBody):
    metric: str = Field("", max_length=80, description="Of the curve of a sweep or a front.")


class TakeRequest(RequestBody):
    run_id: str = Field(max_length=12)


class DeleteStudyQuery(RequestBody):
    runs: bool = Field(False, description="Its runs go too.")


class StudyAnswer(StudySummary):
    progress: float
    question: dict[str, Any]
    unit: str = Field(description="points, or what losses are told in; empty for a sweep.")
    runs: list[StudyRunAnswer]
    sweep: SweepAnswer | None = Field(None, description="Of a sweep or a front.")


class BlameRequest(RequestBody):
    layers: list[str] = Field(
        default_factory=list, max_length=50, description="To give back one by one; none: the ten that cost most."
    )


class GiveBackRequest(RequestBody):
    layers: list[str] = Field(min_length=1, max_length=200, description="That stay as they are in the original.")
    name: str | None = Field(None, max_length=200)


class BlamedLayerAnswer(RowAnswer):
    name: str
    option: str = Field(description="How it is stored, or what its profile calls that.")
    size_bytes: int
    bytes_back: int = Field(description="That undoing it costs.")
    cut: bool = Field(description="Its shape was cut, so what it costs alone cannot be measured.")
    expected: float | None = Field(description="Its share of the run's expected loss, where the profile knows it.")
    measured: dict[str, Any] | None = Field(description="By metric: what changes where it alone is given back.")


class BlamedCutAnswer(RowAnswer):
    unit: str
    label: str
    expected: float = Field(description="Its share of the run's expected loss.")


class BlameAnswer(RowAnswer):
    """What the layers of a run cost, those that cost most first."""

    profile_id: str | None
    unit: str = Field(description="Of what is expected.")
    expected: float | None = Field(description="Of the whole run; null where the profile does not know all of it.")
    metrics: dict[str, Any] = Field(description="Of the file as it is, on the samples that layers are given back on.")
    metric: str = Field(description='The one of them that tells most; "" where nothing was measured.')
    cuts: list[BlamedCutAnswer] = Field(description="What was cut out of the shapes of many layers.")
    layers: list[BlamedLayerAnswer]
    stage: StageAnswer | None = Field(description="That measures, where it was asked for.")


class SamplesQuery(RequestBody):
    """Classes are the model's numbers."""

    outcome: Literal["", "to_wrong", "to_right", "both_wrong", "both_right", "changed", "same"] = ""
    label: int | None = Field(None, description="Only those of this class.")
    original: int | None = Field(None, description="Only those that the original takes for this class.")
    result: int | None = Field(None, description="Only those that the result takes for this class.")
    distance: float | None = Field(None, description="Only those of this distance or more.", allow_inf_nan=False)
    after: int = Field(-1, ge=-1, description="The rank after which the page begins: `next` of a page.")
    limit: int = Field(24, ge=1, le=LARGEST_PAGE)


class SampleAnswer(RowAnswer):
    """What original and result answered to a sample; of the fields after `outcome` those that its kind has."""

    rank: int = Field(description="0 is the worst.")
    index: int = Field(description="Its place in the evaluation split, from 0.")
    distance: float | None = Field(description="Null where it is no finite number.")
    outcome: str | None
    label: int | None
    original_class: int | None
    original_confidence: float | None
    result_class: int | None
    result_confidence: float | None
    target: list[float | None] | None = Field(description="Of numbers, the first 16.")
    original_answer: list[float | None] | None
    result_answer: list[float | None] | None
    text: str | None = Field(description="The sample itself, where it was kept; as the fields after this.")
    choices: list[str] | None
    numbers: list[float | None] | None
    picture: str | None = Field(description="A data: address.")
    tokens: list[str] | None
    original_loss: list[float | None] | None = Field(description="Of each token, nats; the first has none.")
    result_loss: list[float | None] | None


class ClassAnswer(RowAnswer):
    label: int
    name: str
    n: int
    original_right: int
    result_right: int
    to_wrong: int
    to_right: int
    mistaken: int | None = Field(description="The class that the result takes most of its mistakes for.")


class ConfusionAnswer(RowAnswer):
    side: str = Field(description="original or result.")
    classes: list[int] = Field(description="Of rows and columns: those that are mistaken most, where there are many.")
    matrix: list[list[int]] = Field(description="Rows are labels, or without labels what the original answered.")
    left_out: int


class DistanceAnswer(BaseModel):
    title: str
    unit: str


class SamplesAnswer(BaseModel):
    """What a run kept of the samples that evaluate, the worst first."""

    kind: str = Field(description="classes, choices, tokens, numbers or distances.")
    n: int
    labelled: bool
    class_names: list[str] | None
    distance: DistanceAnswer = Field(description="What `distance` of a sample is.")
    tokens: int
    tokens_kept: int = Field(description="Those whose losses were kept: of the worst chunks.")
    contents_kept: int = Field(description="Samples that were kept themselves: the worst.")
    outcomes: dict[str, int]
    classes: list[ClassAnswer]
    confusions: list[ConfusionAnswer]
    matching: int
    items: list[SampleAnswer]
    next: int | None = Field(description="Give it as `after` for the next page; null on the last.")


class ComparedSamplesQuery(RequestBody):
    run: list[str] = Field(description="The runs, one parameter each.")
    lost: str = Field("", description="The id of one of them: only the samples that it loses.")
    after: int = Field(-1, ge=-1, description="`next` of a page.")


class LosingRunAnswer(BaseModel):
    run_id: str
    lost: int | None = Field(description="Samples that it answers wrongly; null where none is right or wrong.")
    alone: int | None = Field(description="Of them those that no other run loses.")


class DifferingSampleAnswer(BaseModel):
    index: int = Field(description="Its place among the samples that evaluate, from 0.")
    cells: list[bool | float | None] = Field(description="For each run: whether it loses the sample, or its distance.")
    sample: SampleAnswer


class ComparedSamplesAnswer(BaseModel):
    """Samples that not all runs answer alike, those that most lose first."""

    n: int
    differ: int
    notes: list[str] = Field(description="Sentences on runs that are left out.")
    runs: list[LosingRunAnswer]
    items: list[DifferingSampleAnswer]
    next: int | None = Field(description="Give it as `after` for the next page; null on the last.")


class WrittenAnswer(RowAnswer):
    tokens: list[str] = Field(description="What each token adds to the text.")
    ended: Literal["stop", "length"] = Field(description="stop: the model said that it is done.")


class AnsweredPromptAnswer(RowAnswer):
    prompt: str
    original: WrittenAnswer
    result: WrittenAnswer
    same: int = Field(description="How many first tokens are the same in both.")


class AskedPromptsAnswer(RowAnswer):
    """Prompts that were asked together; `answers` are there once `stage` has succeeded."""

    name: str
    texts: list[str]
    max_tokens: int
    chat: bool
    stage: StageAnswer | None
    answers: list[AnsweredPromptAnswer]


class ShareAnswer(BaseModel):
    token: str
    url: str
    created_at: datetime


class RecipeDifference(BaseModel):
    """One setting of the compared runs."""

    part: str = Field(description='"Run", or the step: "Step 1".')
    name: str
    values: list[Any] = Field(description="Of each run in the order asked; null where it has no such thing.")
    differs: bool


class LayerDifference(BaseModel):
    """One layer of the compared runs."""

    name: str
    values: dict[str, list[Any]] = Field(
        description="bits, sparsity, rank, shape, bytes, storage, expected and measured loss, of each run."
    )


class ComparisonAnswer(BaseModel):
    """The table behind the compare page."""

    metric: str = Field(description='"" where none of the runs has a metric.')
    metrics: dict[str, str] = Field(description="Every metric that some run has, with its title.")
    higher_is_better: bool
    notes: list[str] = Field(description="What has to be known before believing the table.")
    rows: list[dict[str, Any]]
    axes: dict[str, str] = Field(description="What x and y may be, with their titles.")
    colours: dict[str, str] = Field(description="What the runs may be coloured by, with its title.")
    recipes: list[RecipeDifference] = Field(description="Every setting of the runs, step by step.")
    layers: list[LayerDifference] = Field(description="Layers of the first six runs: those that differ, or all.")
    url: str


class DeploymentAnswer(RowAnswer):
    name: str
    run_id: str
    artifact: str
    of_original: bool = Field(description="Whether it is the original, in the format of that file.")
    state: Literal["starting", "ready", "stopped", "failed"]
    reason: str | None = Field(description="Why it is not ready, where that is known.")
    requests: int = Field(description="Answered so far, over all restarts.")
    deaths: int = Field(description="How often its process had to be started again.")
    memory_bytes: int | None
    signature: dict[str, Any] | None = Field(description="Inputs and outputs of the model, once it was ready.")
    ready_at: datetime | None
    created_at: datetime

    @computed_field(description="What the addresses of the protocols begin with: URL/v1/models/NAME:predict.")
    def url(self) -> str:
        return url_for("serve.pass_on", name=self.name, path="v1", _external=True).removesuffix("/v1")


class NewDeploymentAnswer(DeploymentAnswer):
    token: str = Field(description="Send it with every request: Authorization: Bearer TOKEN. It is told this once.")


class TrafficQuery(RequestBody):
    window: Window = Field("hour", description="`hour` in steps of a minute, `day` in steps of 15.")


class TrafficStepAnswer(RowAnswer):
    at: datetime = Field(description="The beginning of the step.")
    requests: int
    answered: int
    refused: int = Field(description="With a status of 4xx.")
    failed: int = Field(description="With a status of 5xx.")
    left: int = Field(description="The client did not wait for the answer.")
    p50: float | None = Field(description="Milliseconds within which half of the answered requests were.")
    p95: float | None


class TrafficAnswer(RowAnswer):
    window: Window
    step_minutes: int
    until: datetime
    whole: TrafficStepAnswer = Field(description="All steps together.")
    steps: list[TrafficStepAnswer] = Field(description="Those in which requests came, the oldest first.")


class ReplayAnswer(RowAnswer):
    id: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: float = Field(description="0 to 1.")
    message: str
    error: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    samples: int = Field(description="At most.")
    seconds: float = Field(description="At most.")
    result: dict[str, Any] | None = Field(
        description="`replayed` of `total` samples; `sides`, the deployment first, each with `answered`, `errors` by "
        "status, `latency_ms` in the model's process and `client_latency_ms`, `metrics` as served, and `recorded`: the "
        "metrics that the run measured on the same "
        "samples, and how many answers are `different`; `speed`: the ratio of the other side's latency to the "
        "deployment's, with its interval; `between`: how alike both answered."
    )
    sentences: list[str] = Field(description="What the figures mean.")


class ShareOfClass(BaseModel):
    name: str
    probability: float


class TryoutAnswer(BaseModel):
    """Of the fields after `took_ms` those that the model's task has."""

    state: Literal["starting", "ready", "stopped", "failed"] = Field(description="Ask again while it is starting.")
    reason: str | None = None
    took_ms: float | None = Field(None, description="In the model's process, from the request to the whole answer.")
    text: str | None = Field(None, description="A language model's continuation.")
    tokens: list[str] | None = Field(None, description="The same, token by token.")
    similarity: float | None = Field(None, description="The cosine of the two texts' vectors, -1 to 1.")
    classes: list[ShareOfClass] | None = Field(None, description="Of a classifier, in the order of its answer.")
    values: list[float] | None = Field(None, description="What any other model answers for the sample, flat.")


class WebhookAnswer(RowAnswer):
    id: str
    url: str = Field(description="What is called.")
    events: list[str] = Field(description="What it is told of.")
    enabled: bool
    own_address: str = Field(description="Pare's own, with which the links in its messages begin.")
    created_at: datetime

    @computed_field(description="Its page.")
    def page(self) -> str:
        return url_for("webhooks.show", id=self.id)


class NewWebhookAnswer(WebhookAnswer):
    secret: str = Field(description="With which messages are signed. It is told this once.")


class DeliveryAnswer(RowAnswer):
    """A message to a webhook."""

    id: str = Field(description="Its header webhook-id, the same at every try.")
    event: str
    state: Literal["queued", "succeeded", "failed"] = Field(description="Queued: it is tried, or will be again.")
    tries: int
    status: int | None = Field(description="What was answered last.")
    error: str | None = Field(description="What went wrong at the last try, as a sentence.")
    body: str = Field(description="What is sent: JSON, see WebhookMessage.")
    created_at: datetime
    tried_at: datetime | None
    due_at: datetime = Field(description="Of the next try, while it is queued.")


class NamedFacts(BaseModel):
    id: str
    name: str
    digest: str = Field(description="SHA-256 of what was uploaded.")


class NamedStudy(BaseModel):
    id: str
    name: str


class DeliveredFacts(BaseModel):
    name: str
    format: str
    size_bytes: int
    digest: str = Field(description="SHA-256.")
    url: str


class RunFacts(RequestBody):
    """A run that has ended; its figures are the receipt's."""

    kind: Literal["run"]
    id: str
    name: str
    state: Literal["succeeded", "failed", "cancelled"]
    attempt: int = Field(description="One more for each retry.")
    url: str = Field(description="Its page.")
    checkpoint: NamedFacts
    dataset: NamedFacts | None
    study: NamedStudy | None
    tags: list[str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: ErrorBody | None
    baseline: MeasuredSummary | None = Field(description="The original: its size_bytes, metrics, …")
    result: MeasuredSummary | None = Field(description="The result: likewise.")
    verdict: dict[str, Any] | None = Field(description="verdict, metric, sentence, difference and ci95.")
    artifacts: list[DeliveredFacts]
    undelivered: list[dict[str, Any]] = Field(description="Formats that failed: artifact, format, title, reason.")


class StudyFacts(RequestBody):
    """A study that has ended."""

    kind: Literal["study"]
    id: str
    name: str
    state: Literal["succeeded", "failed", "cancelled"]
    url: str = Field(description="Its page.")
    checkpoint: NamedFacts
    dataset: NamedFacts | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: ErrorBody | None
    conclusion: dict[str, Any] | None = Field(description="The run that is the answer (winner), and why (sentence).")
    runs: dict[str, int] = Field(description="How many of its runs are in which state.")


class WebhookMessage(RequestBody):
    """What a webhook is sent. It answers with a status of 200 to 299 within 15 seconds, else it is sent again."""

    type: str = Field(description="run.succeeded, run.failed, run.cancelled, study.…, or test.")
    timestamp: datetime = Field(description="When it ended.")
    text: str = Field(description="The same in a sentence, which chats show.")
    data: RunFacts | StudyFacts | None = Field(description="Of a test: the last run that succeeded, if there is one.")
