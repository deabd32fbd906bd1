"""`pare compress`: a recipe, or what a budget comes to, applied to a checkpoint with no server; the receipt printed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

from webapp.engine.errors import BudgetInvalid, PareError
from webapp.engine.exporters import check_names, exporters, measured
from webapp.engine.facts import CheckpointFacts
from webapp.engine.profiles.budget import BudgetGoal, Solver
from webapp.engine.profiles.facts import ProfileFacts
from webapp.engine.recipe import Recipe, lines_named
from webapp.engine.run.budgets import expected_of, limits_of
from webapp.engine.run.checks import check_run, task_of
from webapp.engine.run.predict import predict, understood
from webapp.engine.run.receipt import conclude
from webapp.engine.run.receipt_text import render_text
from webapp.engine.run.stages import RunGiven, is_pointless, plan_stages
from webapp.engine.run.stages.base import StageResults
from webapp.engine.run.stages.export import ExportStage
from webapp.engine.run.stages.job import SourcesGiven, StageOutput
from webapp.engine.techniques import with_versions
from webapp.units import percent

from .options import ReadsFiles
from .profiling import Bytes, Tolerance, expected_text, families_named, goal_of, profiled
from .progress_bar import ProgressBar
from .sources import File, GivenFiles, named_datasets, reads_sources
from .workbench import Workbench, files_in, workbench

NOT_ALL_DELIVERED = 3  # exit status


class _Formats(click.Option):
    """Its help lists the formats."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        listed = [f"{name} ({form.title})" for name, form in exporters().items() if not form.can.always]
        self.help = f"{self.help}\n\nFormats: {', '.join(listed)}; {measured().name} is always written."
        return super().get_help_record(ctx)


@click.command(cls=ReadsFiles)
@reads_sources
@click.option("--recipe", type=File, help="The recipe, YAML or JSON.")
@click.option("--size", type=Bytes(), help="In place of a recipe: how large the file may be, such as 60MB.")
@click.option("--ratio", type=float, help="In place of a recipe: the same as a share of the original, such as 0.25.")
@click.option("--tolerance", type=Tolerance(), help="In place of a recipe: what may be lost, 0.5pt or 0.05 (a loss).")
@click.option("--families", help='Of what a budget may choose: "quantization, low rank".')
@click.option("--teacher", type=File, help="A checkpoint that teaches in distillation, in place of the original.")
@click.option(
    "--export",
    "exports",
    cls=_Formats,
    multiple=True,
    metavar="FORMAT",
    help="A format to write too; may be given more than once.",
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="A folder to make.")
@click.option("--quiet", is_flag=True, help="Print the receipt only.")
def compress(
    given: GivenFiles,
    recipe: Path | None,
    size: int | None,
    ratio: float | None,
    tolerance: dict[str, float] | None,
    families: str | None,
    teacher: Path | None,
    exports: tuple[str, ...],
    out: Path,
    quiet: bool,
) -> None:
    """Apply a recipe to CHECKPOINT and write the smaller one, with its receipt, into a new folder.

    Without a recipe, name a size or what may be lost: the checkpoint is profiled on the data, and the recipe that loses
    least, or is smallest, is written and run.

    Exit status 3: a format failed and is not in the folder; the others are, and the receipt says why.
    """
    if out.exists() and any(out.iterdir()):
        raise click.ClickException(f"{out} is not empty; name a folder that does not exist yet.")
    goal = goal_of(size, ratio, tolerance)
    if (recipe is None) == (goal is None):
        raise click.UsageError("Name a --recipe, or a budget: --size, --ratio or --tolerance.")
    text = recipe.read_text(encoding="utf8") if recipe else ""
    with lines_named(text):
        wanted = _understood(text) if recipe else None
    check_names(exports)
    prepared = given.prepared()
    out.parent.mkdir(parents=True, exist_ok=True)
    with workbench(out.resolve().parent) as bench, ProgressBar(quiet) as bar, lines_named(text):
        sources = given.inspected(bench, bar, teacher)
        if exports:
            bar.stage("Trying the formats")
            sources = sources.model_copy(update={"checkpoint": bench.try_formats(sources.checkpoint, bar.tell)})
        expected = None
        if goal is not None:
            profile = profiled(bench, bar, sources, given.seed, prepared)
            wanted, expected = _budgeted(bar, profile, sources.checkpoint.facts, goal, families, exports)
        assert wanted is not None
        run = _asked(bar, sources, wanted, exports, given.seed, prepared)
        receipt, exported = _run(bench, bar, run, sources, expected)
        _deliver(out, sources.checkpoint.folder, exported, receipt, wanted.to_yaml())
    click.echo(render_text(receipt))
    if missing := receipt["undelivered"]:
        click.echo(f"Not delivered: {', '.join(row['artifact'] for row in missing)}. The receipt says why.", err=True)
    click.echo(f"{out / measured().file}, its receipt.json beside it. Check it again with: pare verify {out}")
    if missing:
        raise click.exceptions.Exit(NOT_ALL_DELIVERED)


def _understood(text: str) -> Recipe:
    """Names and settings are checked before anything large is read."""
    found = Recipe.parse(text)
    for position, step in enumerate(found.steps):
        understood(step, position)
    return with_versions(found)


def _budgeted(
    bar: ProgressBar,
    profile: ProfileFacts,
    facts: CheckpointFacts,
    goal: BudgetGoal,
    families: str | None,
    exports: tuple[str, ...],
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe, and what is expected of it. Raises BudgetInvalid."""
    solver = Solver(profile, facts)
    budget = solver.solve(goal, limits_of(facts, families_named(families, profile), {}, exports))
    if budget.recipe is None:
        raise BudgetInvalid("The original itself reaches this goal, so there is nothing to do. Set another.", "goal")
    bar.say(f"The budget: {expected_text(solver, budget)}.")
    return with_versions(Recipe.read(budget.recipe)), expected_of(None, budget)


def _asked(
    bar: ProgressBar,
    sources: SourcesGiven,
    recipe: Recipe,
    exports: tuple[str, ...],
    seed: int,
    preprocessing: dict[str, Any],
) -> RunGiven:
    """The run, checked as page and API check it."""
    facts, teacher = sources.checkpoint.facts, sources.teacher_checkpoint
    dataset, training = named_datasets(sources)
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


def _run(
    bench: Workbench, bar: ProgressBar, run: RunGiven, sources: SourcesGiven, expected: dict[str, Any] | None
) -> tuple[dict[str, Any], list[Path]]:
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
    concluded = conclude(run, sources, results, name=sources.checkpoint.name, companions=companions, expected=expected)
    receipt = concluded["receipt"]
    missing = {row["format"] for row in receipt["undelivered"]}
    return receipt, [done[ExportStage.name_of(form)].folder for form in run.exports if form not in missing]


def _deliver(out: Path, original: Path, exported: list[Path], receipt: dict[str, Any], recipe: str) -> None:
    """The finished folder: the checkpoint's companions, the weights, the receipt."""
    from webapp.engine.weights.model import WEIGHTS

    shutil.copytree(original, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WEIGHTS))
    for folder in exported:
        shutil.copytree(folder, out, dirs_exist_ok=True, copy_function=shutil.move)
    (out / "receipt.json").write_text(json.dumps(receipt, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
    (out / "recipe.yaml").write_text(recipe, encoding="utf8")
