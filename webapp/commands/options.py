"""What several subcommands have in common."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from webapp.config import InstallationSettings


class ReadsFiles(click.Command):
    """Its help says what a checkpoint and a dataset may be, which is known only once the engine is imported."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from webapp.engine.data.inspect import READ
        from webapp.engine.importers import importers
        from webapp.engine.plugins import one_of

        told = {"checkpoint": one_of(kind.accepts for kind in importers().values())}
        if any(option.name == "data" for option in self.params):
            told["dataset"] = one_of(READ)
        for what, accepted in told.items():
            formatter.write_paragraph()
            formatter.write_text(f"A {what} is {accepted}.")


def instance(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --instance."""
    return click.option(
        "--instance",
        type=click.Path(path_type=Path, file_okay=False),
        default=lambda: Path(os.environ.get("PARE_INSTANCE", "instance")),
        show_default="$PARE_INSTANCE or ./instance",
        help="The folder with this installation's database, files and settings.toml; made where it is missing.",
    )(command)


def start_logging(settings: InstallationSettings) -> None:
    """To stderr, with the time; libraries only where they warn."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("alembic", "dbos", "fsspec", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
