"""The checkpoint and the data that a command is given, and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click
import yaml

from webapp.engine.run.checks import NamedDataset
from webapp.engine.run.stages.job import SourcesGiven

from .progress_bar import ProgressBar
from .workbench import Workbench

File = click.Path(exists=True, dir_okay=False, path_type=Path)
FileOrFolder = click.Path(exists=True, path_type=Path)
OPTIONS = (
    click.argument("checkpoint", type=FileOrFolder),
    click.option("--data", type=File, help="The dataset to evaluate on."),
    click.option("--split", type=click.Choice(["auto", "all"]), default="auto", help="all: every sample evaluates."),
    click.option("--training-data", type=File, help="A second dataset, to calibrate and train on."),
    click.option("--preprocessing", type=File, help="How images are prepared, YAML or JSON; else the model's own way."),
    click.option(
        "--imatrix",
        type=File,
        help="An importance matrix of llama.cpp's for its quantization, in place of one beside the checkpoint.",
    ),
    click.option("--dequantize", is_flag=True, help="Turn weights that are quantized already into floats again."),
    click.option(
        "--task", help="What the model is for: classification, embedding, regression, segmentation, distance…"
    ),
    click.option("--seed", type=int, default=0, help="Decides everything that is drawn at random."),
)


@dataclass(frozen=True)
class GivenFiles:
    """As the command line has them."""

    checkpoint: Path
    data: Path | None
    split: str
    training_data: Path | None
    preprocessing: Path | None
    imatrix: Path | None
    dequantize: bool
    task: str | None
    seed: int

    def inspected(self, bench: Workbench, bar: ProgressBar, teacher: Path | None = None) -> SourcesGiven:
        """With what of the checkpoint can be cut."""

        def one(path: Path | None, by: Callable[..., Any], **options: Any) -> Any:
            if path is None:
                return None
            bar.stage(f"Inspecting {path.name}")
            return by(path, bar.tell, **options)

        matrix = self.imatrix.absolute() if self.imatrix else None
        options = {"dequantize": self.dequantize, "use": self.task, "importance": matrix}
        checkpoint = one(self.checkpoint, bench.checkpoint, **options)
        taught_by = one(teacher, bench.checkpoint, dequantize=self.dequantize)
        found = SourcesGiven(
            checkpoint=checkpoint,
            teacher_checkpoint=taught_by and bench.look_at_structure(taught_by, bar.tell),
            dataset=one(self.data, bench.dataset, split=self.split),
            training_dataset=one(self.training_data, bench.dataset),
        )
        bar.stage("Looking at its structure")
        return found.model_copy(update={"checkpoint": bench.look_at_structure(checkpoint, bar.tell)})

    def prepared(self) -> dict[str, Any]:
        """The settings by which images are prepared, as the file says."""
        if self.preprocessing is None:
            return {}
        name = self.preprocessing.name
        try:
            found = yaml.safe_load(self.preprocessing.read_text(encoding="utf8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise click.ClickException(f"{name} is neither YAML nor JSON: {error}") from None
        if not isinstance(found, dict):
            raise click.ClickException(f"{name} must name settings and their values, such as height: 224")
        return found


def reads_sources(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options, which the command gets as `given`."""

    @wraps(command)
    def with_files(**options: Any) -> Any:
        given = GivenFiles(**{field.name: options.pop(field.name) for field in fields(GivenFiles)})
        return command(given=given, **options)

    for option in reversed(OPTIONS):
        with_files = option(with_files)
    return with_files


def named_datasets(sources: SourcesGiven) -> tuple[NamedDataset | None, NamedDataset | None]:
    """The one that evaluates, and the one that calibrates in its place."""
    given = (sources.dataset, sources.training_dataset)
    found = [NamedDataset(one.name, one.facts) if one else None for one in given]
    return found[0], found[1]
