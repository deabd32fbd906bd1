"""`pare compress`: a recipe applied to a checkpoint with no server, and the receipt printed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from webapp.engine.errors import PareError
from webapp.engine.exporters import check_names, exporters, measured
from webapp.engine.recipe import Recipe, lines_named
from webapp.engine.run.checks import NamedDataset, check_run, task_of
from webapp.engine.run.predict import predict, understood
from webapp.engine.run.receipt import conclude
from webapp.engine.run.receipt_text import render_text
from webapp.engine.run.stages import RunGiven, is_pointless, plan_stages
from webapp.engine.run.stages.base import StageResults
from webapp.engine.run.stages.export import ExportStage
from webapp.engine.run.stages.job import SourcesGiven, StageOutput
from webapp.engine.techniques import with_versions
from webapp.jobs.child import CurvePoint
from webapp.units import percent

from .options import ReadsFiles
from .workbench import Workbench, files_in, workbench

NOT_ALL_DELIVERED = 3  # exit status
File = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Formats(click.Option):
    """Its help lists the formats."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        listed = [f"{name} ({form.title})" for name, form in exporters().items() if not form.can.always]
        self.help = f"{self.help}\n\nFormats: {', '.join(listed)}; {measured().name} is always written."
        return super().get_help_record(ctx)


@click.command(cls=ReadsFiles)
@click.argument("checkpoint", type=File)
@click.option("--recipe", required=True, type=File, help="The recipe, YAML or JSON.")
@click.option("--data", type=File, help="The dataset to evaluate on.")
@click.option("--split", type=click.Choice(["auto", "all"]), default="auto", help="all: every sample evaluates.")
@click.option("--training-data", type=File, help="A second dataset, to calibrate and train on.")
@click.option("--preprocessing", type=File, help="How images are prepared, YAML or JSON; else the model's own way.")
@click.option("--teacher", type=File, help="A checkpoint that teaches in distillation, in place of the original.")
@click.option("--dequantize", is_flag=True, help="Turn weights that are quantized already into floats again.")
@click.option("--task", help="What the model is for: classification, embedding, regression, segmentation, distance…")
@click.option(
    "--export",
    "exports",
    cls=_Formats,
    multiple=True,
    metavar="FORMAT",
    help="A format to write too; may be given more than once.",
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="A folder to make.")
@click.option("--seed", type=int, default=0, help="Decides everything that is drawn at random.")
@click.option("--quiet", is_flag=True, help="Print the receipt only.")
def compress(
    checkpoint: Path,
    recipe: Path,
    data: Path | None,
    split: str,
    training_data: Path | None,
    preprocessing: Path | None,
    teacher: Path | None,
    dequantize: bool,
    task: str | None,
    exports: tuple[str, ...],
    out: Path,
    seed: int,
    quiet: bool,
) -> None:
    """Apply a recipe to CHECKPOINT and write the smaller one, with its receipt, into a new folder.

    Exit status 3: a format failed and is not in the folder; the others are, and the receipt says why.
    """
    if out.exists() and any(out.iterdir()):
        raise click.ClickException(f"{out} is not empty; name a folder that does not exist yet.")
    text = recipe.read_text(encoding="utf8")
    with lines_named(text):
        wanted = Recipe.parse(text)
        for position, step in enumerate(wanted.steps):  # names and settings, before anything large is read
            understood(step, position)
    wanted = with_versions(wanted)
    check_names(exports)
    prepared = _mapping(preprocessing) if preprocessing else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with workbench(out.resolve().parent) as bench, _Bar(quiet) as bar, lines_named(text):
        sources = _inspected(bench, bar, checkpoint, data, split, training_data, teacher, dequantize, task)
        bar.stage("Looking at its structure")
        sources = sources.model_copy(update={"checkpoint": bench.look_at_structure(sources.checkpoint, bar.tell)})
        if exports:
            bar.stage("Trying the formats")
            sources = sources.model_copy(update={"checkpoint": bench.try_formats(sources.checkpoint, bar.tell)})
        run = _asked(bar, sources, wanted, exports, seed, prepared)
        receipt, exported = _run(bench, bar, run, sources)
        _deliver(out, sources.checkpoint.folder, exported, receipt, wanted.to_yaml())
    click.echo(render_text(receipt))
    if missing := receipt["undelivered"]:
        click.echo(f"Not delivered: {', '.join(row['artifact'] for row in missing)}. The receipt says why.", err=True)
    click.echo(f"{out / measured().file}, its receipt.json beside it. Check it again with: pare verify {out}")
    if missing:
        raise click.exceptions.Exit(NOT_ALL_DELIVERED)


def _inspected(
    bench: Workbench,
    bar: _Bar,
    checkpoint: Path,
    data: Path | None,
    split: str,
    training_data: Path | None,
    teacher: Path | None,
    dequantize: bool,
    task: str | None,
) -> SourcesGiven:
    def inspected(path: Path | None, by: Callable[..., Any], **options: Any) -> Any:
        if path is None:
            return None
        bar.stage(f"Inspecting {path.name}")
        return by(path, bar.tell, **options)

    return SourcesGiven(
        checkpoint=inspected(checkpoint, bench.checkpoint, dequantize=dequantize, use=task),
        teacher_checkpoint=inspected(teacher, bench.checkpoint, dequantize=dequantize),
        dataset=inspected(data, bench.dataset, split=split),
        training_dataset=inspected(training_data, bench.dataset),
    )


def _asked(
    bar: _Bar,
    sources: SourcesGiven,
    recipe: Recipe,
    exports: tuple[str, ...],
    seed: int,
    preprocessing: dict[str, Any],
) -> RunGiven:
    """The run, checked as page and API check it."""
    facts, teacher = sources.checkpoint.facts, sources.teacher_checkpoint
    dataset, training = (
        NamedDataset(one.name, one.facts) if one else None for one in (sources.dataset, sources.training_dataset)
    )
    prepared = check_run(facts, recipe, exports, dataset, training, teacher.facts if teacher else None, preprocessing)
    for row in predict(facts, recipe).unreached:
        bar.say(f"No step reaches {row.what}, {percent(row.share)} of the file: {row.why}.")
    return RunGiven(
        recipe=recipe,
        exports=exports,
        seed=seed,
        preprocessing=prepared.model_dump(mode="json") if prepared else None,
        task=task_of(facts, dataset, training),
    )


def _run(bench: Workbench, bar: _Bar, run: RunGiven, sources: SourcesGiven) -> tuple[dict[str, Any], list[Path]]:
    """The receipt, and the folders of the formats that are delivered."""
    planned = plan_stages(run)
    done: dict[str, StageOutput] = {}
    failed: dict[str, Any] = {}
    for name, stage in planned.items():
        if is_pointless(stage, planned, failed):
            continue
        bar.stage(stage.title)
        try:
            done[name] = bench.stage(stage, sources, done, bar.tell)
        except PareError as error:
            if stage.format is None:
                raise
            failed[name] = error.as_dict()
    companions = files_in(sources.checkpoint.folder)
    results = StageResults(
        {name: made.facts for name, made in done.items()},
        {name: files_in(made.folder) for name, made in done.items()},
        failed,
    )
    receipt = conclude(run, sources, results, name=sources.checkpoint.name, companions=companions)["receipt"]
    missing = {row["format"] for row in receipt["undelivered"]}
    return receipt, [done[ExportStage.name_of(form)].folder for form in run.exports if form not in missing]


def _mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON file of settings."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path.name} is neither YAML nor JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.ClickException(f"{path.name} must name settings and their values, such as height: 224")
    return found


def _deliver(out: Path, original: Path, exported: list[Path], receipt: dict[str, Any], recipe: str) -> None:
    """The finished folder: the checkpoint's companions, the weights, the receipt."""
    from webapp.engine.weights.model import WEIGHTS

    shutil.copytree(original, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WEIGHTS))
    for folder in exported:
        shutil.copytree(folder, out, dirs_exist_ok=True, copy_function=shutil.move)
    (out / "receipt.json").write_text(json.dumps(receipt, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
    (out / "recipe.yaml").write_text(recipe, encoding="utf8")


class _Bar:
    """A progress bar on stderr, one stage after the other."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self._bar: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()

    def stage(self, title: str) -> None:
        self._finish()
        if not self.quiet:
            self._bar = click.progressbar(length=1000, label=title[:40].ljust(40), file=click.get_text_stream("stderr"))
            self._bar.__enter__()

    def say(self, sentence: str) -> None:
        self._finish()
        if not self.quiet:
            click.echo(sentence, err=True)

    def tell(self, fraction: float | None, message: str, lines: list[str], points: Sequence[CurvePoint] = ()) -> None:
        if self._bar is not None and fraction is not None:
            self._bar.update(max(0, int(1000 * fraction) - self._bar.pos))

    def _finish(self) -> None:
        if self._bar is not None:
            self._bar.update(1000 - self._bar.pos)
            self._bar.__exit__(None, None, None)
            self._bar = None
