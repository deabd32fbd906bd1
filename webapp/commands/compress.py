"""`pare compress`: a recipe, or what a budget comes to, applied to a checkpoint with no server; the receipt printed."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from webapp.engine.exporters import check_names, exporters, measured
from webapp.engine.exporters.sizes import sizes_of
from webapp.engine.profiles.budget import Solver
from webapp.engine.recipe import Recipe, lines_named
from webapp.engine.run.budgets import limits_of
from webapp.engine.run.predict import understood
from webapp.engine.run.receipt_text import render_text
from webapp.engine.run.shapes import PROCESS_BYTES
from webapp.engine.techniques import with_versions
from webapp.units import byte_text

from .local_runs import LocalRun, LocalRuns
from .options import ReadsFiles
from .profiling import Bytes, Tolerance, families_named, goal_of, profiled
from .progress_bar import ProgressBar
from .sources import File, FileOrFolder, GivenFiles, reads_sources
from .workbench import workbench

NOT_ALL_DELIVERED = 3  # exit status


class FormatsOption(click.Option):
    """Its help lists the formats."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        listed = [f"{name} ({form.title})" for name, form in exporters().items() if not form.can.always]
        self.help = f"{self.help}\n\nFormats: {', '.join(listed)}; {measured().name} is always written."
        return super().get_help_record(ctx)


OPTIONS = (
    click.option(
        "--export",
        "exports",
        cls=FormatsOption,
        multiple=True,
        metavar="FORMAT",
        help="A format to write too; may be given more than once.",
    ),
    click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="A folder to make."),
    click.option("--plan", "only_planned", is_flag=True, help="Only tell what it will give and take; no --out."),
    click.option(
        "--memory",
        "limit_bytes",
        type=Bytes(),
        help="The memory that each of its stages may take, such as 4GB; what needs more is refused before it runs.",
    ),
    click.option("--quiet", is_flag=True, help="Print the result only."),
)


def writes_folder(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of what is written where, and within how much memory."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def check_folder(out: Path | None, only_planned: bool, limit_bytes: int | None) -> None:
    """Raises UsageError or ClickException."""
    if (out is None) != only_planned:
        raise click.UsageError("Name a folder to make, --out; or ask for the --plan alone.")
    if out is not None and out.exists() and any(out.iterdir()):
        raise click.ClickException(f"{out} is not empty; name a folder that does not exist yet.")
    if limit_bytes is not None and limit_bytes < PROCESS_BYTES:
        raise click.UsageError(f"No stage can do with less --memory than {byte_text(PROCESS_BYTES)}; name more.")


@click.command(cls=ReadsFiles)
@reads_sources
@click.option("--recipe", type=File, help="The recipe, YAML or JSON.")
@click.option(
    "--size",
    type=Bytes(),
    help="In place of a recipe: how large the file may be, such as 60MB; with --export gguf, that one.",
)
@click.option("--ratio", type=float, help="In place of a recipe: the same as a share of the original, such as 0.25.")
@click.option("--tolerance", type=Tolerance(), help="In place of a recipe: what may be lost, 0.5pt or 0.05 (a loss).")
@click.option(
    "--runs",
    "most_runs",
    type=click.IntRange(1, 50),
    default=1,
    help="With --tolerance: at most so many runs, by what is measured, of which the smallest within it is kept.",
)
@click.option("--families", help='Of what a budget may choose: "quantization, low rank".')
@click.option(
    "--teacher", type=FileOrFolder, help="A checkpoint that teaches in distillation, in place of the original."
)
@writes_folder
def compress(
    given: GivenFiles,
    recipe: Path | None,
    size: int | None,
    ratio: float | None,
    tolerance: dict[str, float] | None,
    most_runs: int,
    families: str | None,
    teacher: Path | None,
    exports: tuple[str, ...],
    out: Path | None,
    only_planned: bool,
    limit_bytes: int | None,
    quiet: bool,
) -> None:
    """Apply a recipe to CHECKPOINT and write the smaller one, with its receipt, into a new folder.

    Without a recipe, name a size or what may be lost: the checkpoint is profiled on the data, and the recipe that loses
    least, or is smallest, is written and run.

    Exit status 3: a format failed and is not in the folder; the others are, and the receipt says why.
    """
    check_folder(out, only_planned, limit_bytes)
    goal = goal_of(size, ratio, tolerance)
    if (recipe is None) == (goal is None):
        raise click.UsageError("Name a --recipe, or a budget: --size, --ratio or --tolerance.")
    if most_runs > 1 and (tolerance is None or size is not None or ratio is not None):
        raise click.UsageError("Several --runs look for the smallest file within a --tolerance, and for nothing else.")
    text = recipe.read_text(encoding="utf8") if recipe else ""
    with lines_named(text):
        wanted = _understood(text) if recipe else None
    check_names(exports)
    prepared = given.prepared()
    beside = Path(tempfile.gettempdir()) if out is None else out.resolve().parent
    beside.mkdir(parents=True, exist_ok=True)
    with workbench(beside, limit_bytes) as bench, ProgressBar(quiet) as bar, lines_named(text):
        sources = given.inspected(bench, bar, teacher)
        if exports:
            bar.stage("Trying the formats")
            sources = sources.model_copy(update={"checkpoint": bench.try_formats(sources.checkpoint, bar.tell)})
        runs = LocalRuns(bench, bar, sources, exports, given.seed, prepared)
        if wanted is not None:
            if out is None:
                return click.echo(runs.planned(wanted))
            found = runs.of_recipe(wanted)
        else:
            assert goal is not None
            facts = sources.checkpoint.facts
            sizes = sizes_of(facts, exports if tolerance is None else ())
            solver = Solver(profiled(bench, bar, sources, given.seed, prepared), facts, sizes=sizes)
            limits = limits_of(solver.facts, families_named(families, solver.profile), {}, exports)
            if out is None:
                return click.echo(runs.planned_for(solver, solver.solve(goal, limits)))
            if most_runs > 1 and tolerance is not None:
                found = runs.smallest(solver, limits, tolerance, most_runs)
            else:
                found = runs.of_budget(solver, solver.solve(goal, limits))
        deliver(out, sources.checkpoint.folder, found)
    receipt = found.receipt
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


def deliver(out: Path, original: Path, found: LocalRun) -> None:
    """The finished folder: the checkpoint's companions, the weights, the receipt."""
    from webapp.engine.weights.originals import IN_PLACE, WEIGHTS

    shutil.copytree(original, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WEIGHTS, IN_PLACE))
    for folder in found.exported:
        shutil.copytree(folder, out, dirs_exist_ok=True, copy_function=shutil.move)
    for path in found.samples:
        shutil.move(path, out / path.name)
    (out / "receipt.json").write_text(json.dumps(found.receipt, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
    (out / "recipe.yaml").write_text(found.recipe.to_yaml(), encoding="utf8")
