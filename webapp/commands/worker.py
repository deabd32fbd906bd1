"""`pare worker`: one more worker for an installation, on this machine or another."""

from __future__ import annotations

from pathlib import Path

import click

from webapp.config import InstallationSettings

from .options import instance as with_instance
from .options import start_logging


@click.command()
@with_instance
def worker(instance: Path) -> None:
    """Take runs and inspections out of the queue and work on them, until stopped.

    `pare serve` starts workers of its own; this one is for more of them, or for other machines that share a
    PostgreSQL database and an object store (see docs/settings.md).
    """
    from webapp.jobs.worker import run_worker

    settings = InstallationSettings.load(instance)
    start_logging(settings)
    run_worker(settings)
