"""`pare inspect`: what a checkpoint holds, without running any of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from webapp.units import percent

from .options import ReadsFiles
from .sources import FileOrFolder
from .workbench import workbench


@click.command(cls=ReadsFiles)
@click.argument("checkpoint", type=FileOrFolder)
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def inspect(checkpoint: Path, as_json: bool) -> None:
    """List what CHECKPOINT holds: architecture, tensors, where the bytes are."""
    with tempfile.TemporaryDirectory() as parent, workbench(Path(parent)) as bench:
        given = bench.checkpoint(checkpoint, lambda *_: None)
    facts = given.facts
    from webapp.engine.run.predict import held_by, unreached

    if as_json:
        click.echo(facts.model_dump_json(indent=2))
        return
    spec = facts.architecture
    click.echo(
        f"{given.filename}: {facts.format}, {facts.params_total:,} parameters, {facts.weights_bytes / 1e6:.2f} MB"
    )
    click.echo(f"architecture: {spec.title} ({spec.task or 'no task'})" if spec else facts.weights_only_because)
    for note in facts.notes:
        click.echo(f"note: {note}")
    for row in unreached(held_by(facts), facts.weights_bytes):
        click.echo(f"in no layer: {row.what}, {percent(row.share)} of the bytes: {row.why}")
    for alias, name in facts.tied.items():
        click.echo(f"tied: {alias} is {name}")
    width = max(len(tensor.name) for tensor in facts.tensors)
    for tensor in facts.tensors:
        shape = " × ".join(str(size) for size in tensor.shape) or "scalar"
        kind = tensor.label
        click.echo(f"  {tensor.name.ljust(width)}  {shape:>20}  {kind:>9}  {tensor.bytes:>14,} bytes")
