"""What several subcommands have in common."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from webapp.config import InstallationSettings


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
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("alembic", "dbos", "fsspec", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
