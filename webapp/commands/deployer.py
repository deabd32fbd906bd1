"""`pare deployer`: keeps the deployed models of this machine running."""

from __future__ import annotations

from pathlib import Path

import click

from webapp.config import InstallationSettings

from .options import instance as with_instance
from .options import start_logging


@click.command()
@with_instance
def deployer(instance: Path) -> None:
    """Start, watch and end the processes of deployed models, until stopped. `pare serve` starts one of its own."""
    from webapp.jobs.deployer import run_deployer

    settings = InstallationSettings.load(instance)
    start_logging(settings)
    run_deployer(settings)
