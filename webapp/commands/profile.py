"""`pare profile`: what each option of each layer of a checkpoint saves and costs, and the front of sizes and losses."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from webapp.engine.profiles.budget import BudgetGoal, FrontPoint, Solver
from webapp.engine.profiles.facts import KEPT, LayerOptions, Option
from webapp.engine.run.receipt_text import table
from webapp.units import byte_text, percent, significant

from .options import ReadsFiles
from .profiling import profiled
from .progress_bar import ProgressBar
from .sources import GivenFiles, reads_sources
from .workbench import workbench


@click.command(cls=ReadsFiles)
@reads_sources
@click.option("--json", "as_json", is_flag=True, help="Print every option of every layer, and the front, as JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def profile(given: GivenFiles, as_json: bool, quiet: bool) -> None:
    """Work out what each option of each layer of CHECKPOINT saves and costs on --data, and how small it can become."""
    prepared = given.prepared()
    with tempfile.TemporaryDirectory() as parent, workbench(Path(parent)) as bench, ProgressBar(quiet) as bar:
        sources = given.inspected(bench, bar)
        found = profiled(bench, bar, sources, given.seed, prepared)
    solver = Solver(found, sources.checkpoint.facts)
    whole = solver.facts.weights_bytes
    front = solver.solve(BudgetGoal(bytes=2 * whole)).front
    if as_json:
        click.echo(json.dumps({**found.model_dump(mode="json"), "front": [p.model_dump(mode="json") for p in front]}))
        return
    seen = f"{found.samples:,} samples" + (f", {found.tokens:,} tokens" if found.tokens else "")
    click.echo(f"{given.checkpoint.name} on {seen}: {found.seconds:.0f} s, losses in {found.unit}")
    head = ("", "bytes", "options", "at most half the bytes", "loss", "the smallest", "bytes", "loss")
    click.echo("\n".join(table("Layers", head, map(_layer_row, found.layers))))
    click.echo("\n".join(table("The front", ("", "of the original", "expected loss", ""), _front_rows(front, whole))))


def _layer_row(layer: LayerOptions) -> tuple[str, ...]:
    """What halving the layer costs at least, and how small it can become."""
    kept, others = layer.options[0], [option for option in layer.options if option.family != KEPT]
    halved = min((one for one in others if 2 * one.bytes <= kept.bytes), key=lambda one: one.loss, default=None)
    least = min(others, key=lambda one: (one.bytes, one.loss), default=None)
    name = f"{layer.name} (no sample reached it)" if layer.unreached else layer.name
    return name, f"{kept.bytes:,}", str(len(others)), *_told(halved), *_sized(least)


def _told(option: Option | None) -> tuple[str, str]:
    return (option.label, significant(option.loss)) if option else ("–", "–")


def _sized(option: Option | None) -> tuple[str, str, str]:
    return (option.label, f"{option.bytes:,}", significant(option.loss)) if option else ("–", "–", "–")


def _front_rows(front: tuple[FrontPoint, ...], whole: int) -> Iterator[tuple[str, ...]]:
    for point in front:
        between = f"{significant(point.low)} to {significant(point.high)} in 8 of 10 cases" if point.loss else ""
        yield byte_text(point.size_bytes), percent(point.size_bytes / whole), significant(point.loss), between
