"""`pare compress`: a recipe applied to a checkpoint with no server, and the receipt printed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from webapp.jobs.child import CurvePoint

from .options import ReadsFiles
from .workbench import Workbench, files_in, workbench

NOT_ALL_DELIVERED = 3  # exit status
File = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Formats(click.Option):
    """Its help lists the formats, which are known only once the engine is imported."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from webapp.engine.exporters import exporters, measured

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
    from webapp.engine.exporters import check_names, measured
    from webapp.engine.recipe import Recipe
    from webapp.engine.run.predict import understood
    from webapp.engine.run.receipt_text import render_text

    if out.exists() and any(out.iterdir()):
        raise click.ClickException(f"{out} is not empty; name a folder that does not exist yet.")
    wanted = Recipe.parse(recipe.read_text(encoding="utf8"))
    for position, step in enumerate(wanted.steps):  # names and settings, before anything large is read
        understood(step, position)
    check_names(exports)
    prepared = _mapping(preprocessing) if preprocessing else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with workbench(out.resolve().parent) as bench, _Bar(quiet) as bar:
        given = _given(bench, bar, checkpoint, data, split, training_data, teacher, dequantize, task)
        bar.stage("Looking at its structure")
        bench.look_at_structure(given["checkpoint"], bar.tell)
        if exports:
            bar.stage("Trying the formats")
            bench.try_formats(given["checkpoint"], bar.tell)
        conclusion, exported = _run(bench, bar, given, wanted, exports, seed, checkpoint.stem, prepared)
        _deliver(out, Path(given["checkpoint"]["folder"]), exported, conclusion["receipt"], wanted.to_yaml())
    click.echo(render_text(conclusion["receipt"]))
    if missing := conclusion["receipt"]["undelivered"]:
        click.echo(f"Not delivered: {', '.join(row['artifact'] for row in missing)}. The receipt says why.", err=True)
    click.echo(f"{out / measured().file}, its receipt.json beside it. Check it again with: pare verify {out}")
    if missing:
        raise click.exceptions.Exit(NOT_ALL_DELIVERED)


def _given(
    bench: Workbench,
    bar: _Bar,
    checkpoint: Path,
    data: Path | None,
    split: str,
    training_data: Path | None,
    teacher: Path | None,
    dequantize: bool,
    task: str | None,
) -> dict[str, Any]:
    found: dict[str, Any] = {"dataset": None, "training_dataset": None, "teacher_checkpoint": None}
    for key, path in (("checkpoint", checkpoint), ("teacher_checkpoint", teacher)):
        if path:
            bar.stage(f"Inspecting {path.name}")
            use = task if key == "checkpoint" else None
            told = bench.upload("checkpoint", path, bar.tell, dequantize=dequantize, use=use)
            found[key] = {**told, "filename": path.name, "size_bytes": path.stat().st_size}
    if data:
        bar.stage(f"Inspecting {data.name}")
        found["dataset"] = bench.upload("dataset", data, bar.tell, split=split)
    if training_data:
        bar.stage(f"Inspecting {training_data.name}")
        found["training_dataset"] = bench.upload("dataset", training_data, bar.tell, split="auto")
    return found


def _run(
    bench: Workbench,
    bar: _Bar,
    given: dict[str, Any],
    recipe: Any,
    exports: tuple[str, ...],
    seed: int,
    name: str,
    preprocessing: dict[str, Any],
) -> tuple[dict[str, Any], list[Path]]:
    from webapp.engine.errors import PareError
    from webapp.engine.exporters import with_always
    from webapp.engine.facts import CheckpointFacts, DatasetFacts
    from webapp.engine.run.checks import NamedDataset, check_run, task_of
    from webapp.engine.run.plan import stages
    from webapp.engine.run.predict import predict
    from webapp.engine.run.receipt import conclude

    def named(key: str) -> NamedDataset | None:
        found = given[key]
        return NamedDataset(found["name"], DatasetFacts.model_validate(found["facts"])) if found else None

    teacher, about = given["teacher_checkpoint"], CheckpointFacts.model_validate(given["checkpoint"]["facts"])
    prepared = check_run(
        about,
        recipe,
        exports,
        named("dataset"),
        named("training_dataset"),
        CheckpointFacts.model_validate(teacher["facts"]) if teacher else None,
        preprocessing,
    )
    for row in predict(about, recipe).unreached:
        bar.say(f"No step reaches {row.what}, {row.share:.1%} of the file: {row.why}.")
    wanted = with_always(exports)
    options: dict[str, Any] = {"preprocessing": prepared.model_dump(mode="json")} if prepared else {}
    if (use := task_of(about, named("dataset"), named("training_dataset"))) is not None:
        options["task"] = use
    run = {"recipe": recipe.as_dict(), "exports": wanted, "seed": seed, "options": options}
    folders: dict[str, Path] = {}
    facts: dict[str, Any] = {}
    failed: dict[str, Any] = {}
    known = {plan.name: plan for plan in stages(recipe, wanted)}
    for plan in known.values():
        if any(known[name].format == plan.format and not known[name].optional for name in failed):
            continue
        bar.stage(plan.title)
        job = {
            "task": "stage",
            "stage": plan.name,
            "run": run,
            **given,
            "inputs": {other: str(folders[other]) for other in plan.inputs if other in folders},
            "inputs_facts": {other: facts[other] for other in plan.inputs if other in folders},
            "scratch": str(bench.folder / f"{plan.name}-scratch"),
        }
        try:
            folders[plan.name], facts[plan.name] = bench.work(plan.name, job, bar.tell)
        except PareError as error:
            if plan.format is None:
                raise
            failed[plan.name] = error.as_dict()
    checkpoint = {**given["checkpoint"], "files": files_in(Path(given["checkpoint"]["folder"]))}
    files = {stage: files_in(folder) for stage, folder in folders.items()}
    told = {**run, "name": name, "teacher_checkpoint": given["teacher_checkpoint"]}
    found = conclude(told, checkpoint, given["dataset"], given["training_dataset"], facts, files, failed)
    missing = {row["format"] for row in found["receipt"]["undelivered"]}
    return found, [folders[f"export-{form}"] for form in wanted if form not in missing]


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
    from webapp.engine.importers.inspect import WEIGHTS

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
