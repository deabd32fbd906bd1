"""`pare study`: all recipes that one with ranges stands for, applied to a checkpoint with no server, and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from webapp.actions.comparison import as_rows
from webapp.charts.points import front_runs, knee_run, metric_names, metric_of
from webapp.engine.errors import ExportUnfit, PareError, RecipeInvalid
from webapp.engine.exporters import check_names
from webapp.engine.recipe import Recipe, lines_named, read_text
from webapp.engine.run.predict import predict
from webapp.engine.run.receipt_text import table
from webapp.engine.run.sweep import Sweep, unfold, value_at
from webapp.engine.techniques import with_versions
from webapp.units import byte_text, measured_text, percent

from .compress import NOT_ALL_DELIVERED, check_folder, deliver, writes_folder
from .local_runs import LocalRun, LocalRuns
from .options import ReadsFiles
from .progress_bar import ProgressBar
from .sources import File, GivenFiles, reads_sources
from .workbench import workbench


@click.command(cls=ReadsFiles)
@reads_sources
@click.option("--recipe", type=File, required=True, help="The recipe with ranges or lists, YAML or JSON.")
@writes_folder
def study(
    given: GivenFiles,
    recipe: Path,
    exports: tuple[str, ...],
    out: Path | None,
    only_planned: bool,
    limit_bytes: int | None,
    quiet: bool,
) -> None:
    """Apply each recipe that one with ranges stands for to CHECKPOINT, and compare what came of them.

    In the recipe a setting may be a range, 0.3..0.8 step 0.1, or a list, [2, 3, 4], and a technique a list of names.
    The folder gets one for each run, as of `pare compress`, and study.csv.

    Exit status 3: a run failed, or one of its formats did; the others are there.
    """
    check_folder(out, only_planned, limit_bytes)
    text = recipe.read_text(encoding="utf8")
    with lines_named(text):
        sweep = unfold(read_text(text))
    check_names(exports)
    prepared = given.prepared()
    beside = (Path.cwd() if out is None else out.resolve()).parent
    beside.mkdir(parents=True, exist_ok=True)
    with workbench(beside, limit_bytes) as bench, ProgressBar(quiet) as bar, lines_named(text):
        sources = given.inspected(bench, bar)
        if exports:
            bar.stage("Trying the formats")
            sources = sources.model_copy(update={"checkpoint": bench.try_formats(sources.checkpoint, bar.tell)})
        runs = LocalRuns(bench, bar, sources, exports, given.seed, prepared)
        able = _able(runs, sweep, bar)
        if out is None:
            facts = sources.checkpoint.facts
            rows = [(title, byte_text(predict(facts, one).after.size_bytes)) for title, one in able]
            return click.echo("\n".join(table(f"{len(rows)} runs", ("", "file"), rows)))
        done, whole = _done(runs, able, out, bar)
    _tell(sweep, done, out)
    if not whole:
        raise click.exceptions.Exit(NOT_ALL_DELIVERED)


def _able(runs: LocalRuns, sweep: Sweep, bar: ProgressBar) -> list[tuple[str, Recipe]]:
    """The recipes that can run, with their titles. Raises what the first is refused for where none can."""
    found: list[tuple[str, Recipe]] = []
    first: PareError | None = None
    for variant in sweep.variants:
        title, recipe = sweep.title_of(variant) or "The recipe", with_versions(variant.recipe)
        try:
            runs.footprint(runs.checked(recipe))
        except (RecipeInvalid, ExportUnfit) as error:
            first = first or error
            bar.say(f"Left out: {title}. {error.message}")
        else:
            found.append((title, recipe))
    if first is not None and not found:
        raise first
    return found


def _done(
    runs: LocalRuns, able: list[tuple[str, Recipe]], out: Path, bar: ProgressBar
) -> tuple[list[tuple[str, str, LocalRun]], bool]:
    """(the folder's name, the title, what came of it) of each run that has a result; and whether nothing failed."""
    found: list[tuple[str, str, LocalRun]] = []
    whole = True
    for place, (title, recipe) in enumerate(able):
        bar.say(f"Run {place + 1} of {len(able)}: {title}")
        runs.following = [one for _, one in able[place + 1 :]]
        try:
            done = runs.of_recipe(recipe)
        except PareError as error:
            whole = False
            bar.say(f"{title} failed. {error.message}")
            continue
        name = f"{place + 1:03d}"
        deliver(out / name, runs.sources.checkpoint.folder, done)
        whole = whole and not done.receipt["undelivered"]
        found.append((name, title, done))
    return found, whole


def _tell(sweep: Sweep, done: list[tuple[str, str, LocalRun]], out: Path) -> None:
    """Prints the table, and writes it as CSV with the settings."""
    here = {"id": "", "name": ""}
    fed: list[dict[str, Any]] = [
        {"id": name, "name": title, "checkpoint": here, "dataset": None, "baseline": run.baseline, "result": run.result}
        for name, title, run in done
    ]
    metrics = metric_names(fed)
    metric = next(iter(metrics), "")
    knee, front = knee_run(fed, metric), front_runs(fed, metric)
    rows, listed = [], []
    for run, (name, title, found) in zip(fed, done, strict=True):
        own = metric_of(run["result"], metric) or {}
        low, high = own.get("ci95") or (None, None)
        size, before = run["result"]["size_bytes"], (run["baseline"] or {}).get("size_bytes")
        value = own.get("value")
        shown = "–" if value is None else measured_text(value, metric)
        mark = "knee" if name == knee else "front" if name in front else ""
        rows.append((name, title, byte_text(size), percent(size / before) if before else "–", shown, mark))
        settings = [value_at(found.recipe.as_dict(), axis.path) for axis in sweep.axes]
        listed.append([name, title, *settings, size, before, value, low, high, name in front, name == knee])
    click.echo("\n".join(table("", ("", "run", "file", "of the original", metrics.get(metric, "quality"), ""), rows)))
    head = ["folder", "run", *(axis.title for axis in sweep.axes), "size_bytes", "size_bytes_original"]
    head += [f"metric:{metric}", "ci95_low", "ci95_high", "pareto", "knee"]
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.csv").write_text(as_rows([head, *listed]), encoding="utf8")
    click.echo(f"{out}: a folder for each run, and study.csv")
