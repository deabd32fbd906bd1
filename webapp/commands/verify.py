"""`pare verify`: a downloaded artifact beside its receipt, checked again on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from webapp.actions.file_names import downloaded

from .workbench import digest_of

Check = tuple[str, bool, str]


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def verify(folder: Path) -> None:
    """Check the files in FOLDER against the receipt there: digests, bytes, parameters, and that it loads."""
    from webapp.engine.exporters import measured

    paths = sorted(folder.glob("*receipt.json"))
    if not paths:
        raise click.ClickException(f"{folder} has no receipt.json; download it from the run's page.")
    if len(paths) > 1:
        raise click.ClickException(f"{folder} has {len(paths)} receipts; put each into a folder with its own files.")
    (path,) = paths
    try:
        receipt = json.loads(path.read_text(encoding="utf8"))
        checks = [*_files(path, receipt, measured().file), *_content(_found(path, measured().file), receipt)]
    except (ValueError, KeyError, TypeError):
        raise click.ClickException(f"{path} is not a receipt that this version of Pare reads.") from None
    for name, ok, found in checks:
        click.echo(f"{'ok    ' if ok else 'FAILED'}  {name}: {found}")
    failed = sum(not ok for _, ok, _ in checks)
    if failed:
        raise click.ClickException(f"{failed} of {len(checks)} checks failed: this is not the file of this receipt.")
    click.echo(f"All {len(checks)} checks passed.")


def _found(receipt: Path, name: str) -> Path:
    """The artifact beside the receipt, under its own name or as the pages name downloads of a run."""
    own, named = receipt.parent / name, receipt.name.removesuffix("receipt.json").removesuffix(".")
    return own if own.exists() or not named else receipt.parent / downloaded(named, name)


def _files(at: Path, receipt: dict[str, Any], model: str) -> Iterator[Check]:
    if not any(artifact["name"] == model for artifact in receipt["artifacts"]):
        raise ValueError("a receipt without its model proves nothing")
    for artifact in receipt["artifacts"]:
        # a receipt may be anyone's
        if ".." in Path(artifact["name"]).parts or Path(artifact["name"]).is_absolute():
            raise ValueError(f"{artifact['name']} lies outside {at.parent}")
        path = _found(at, artifact["name"])
        if not path.exists():
            needed = artifact["name"] == model
            yield artifact["name"], not needed, "is missing" if needed else "was not downloaded"
            continue
        same = digest_of(path) == artifact["digest"]
        yield artifact["name"], same, f"sha256 {artifact['digest'][:16]}…" if same else "has another sha256"


def _content(path: Path, receipt: dict[str, Any]) -> Iterator[Check]:
    """What the file holds, counted again from the file."""
    if not path.exists():
        return
    from webapp.engine.architectures.build import build
    from webapp.engine.errors import CheckpointRefused
    from webapp.engine.weights.artifact import read_model

    told = receipt["bytes"]
    size = path.stat().st_size
    yield "bytes", size == told["total"] == sum(row["bytes"] for row in told["file"]), f"{size:,}"
    try:
        model = read_model(path)
        plans = [encoded.plan for encoded in model.weights.values() if "float" in encoded.plan.dtype]
        counted = {
            "total": sum(plan.params for plan in plans),
            "nonzero": sum(plan.nonzero for plan in plans),
            "stored": sum(plan.stored for plan in plans),
        }
        for name, value in counted.items():
            yield f"parameters {name}", value == receipt["parameters"][name], f"{value:,}"
        if model.architecture is not None:
            module = build(model)
            yield "loads as", True, f"{model.architecture.title} ({type(module).__name__})"
    except CheckpointRefused as error:
        yield "loads", False, error.message
