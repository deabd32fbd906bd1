"""`pare serve` and `pare demo`: the web server and its workers, until Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from webapp.config import InstallationSettings

from .options import instance as with_instance
from .options import start_logging


def serving(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that serve and demo share."""
    for option in (
        click.option(
            "--workers", type=click.IntRange(0, 64), help="Worker processes; the setting `workers` if not given."
        ),
        with_instance,
        click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0 picks a free one."),
        click.option(
            "--open",
            "is_open",
            is_flag=True,
            help="Ask nobody for an access token, also where other machines reach it: they may do everything.",
        ),
        click.option(
            "--host",
            default="127.0.0.1",
            help="0.0.0.0 or :: makes it reachable from other machines; it then asks for its access token.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@serving
def serve(host: str, is_open: bool, port: int, instance: Path, workers: int | None) -> None:
    """Serve the dashboard and work on its runs. A fresh installation gets the samples to try."""
    start(host, port, instance, workers, is_open, always_samples=False)


@click.command()
@serving
def demo(host: str, is_open: bool, port: int, instance: Path, workers: int | None) -> None:
    """Like serve, with the samples loaded also where something else was uploaded before."""
    start(host, port, instance, workers, is_open, always_samples=True)


def start(host: str, port: int, instance: Path, workers: int | None, is_open: bool, always_samples: bool) -> None:
    from webapp.jobs.supervisor import Supervisor, listen

    settings = InstallationSettings.load(instance, **({} if workers is None else {"workers": workers}))
    start_logging(settings)
    with listen(host, port) as listening:
        supervisor = Supervisor(settings, listening, host, is_open)
        with ProcessPoolExecutor(1, get_context("fork")) as apart:  # this process lives long, and imports little
            apart.submit(load_samples, settings, always_samples).result()
        supervisor.run(click.echo)


def load_samples(settings: InstallationSettings, always: bool) -> None:
    """Brings the database to this version and puts the samples into it."""
    from webapp.jobs.client import JobClient
    from webapp.jobs.workplace import file_store
    from webapp.samples import install, install_when_fresh
    from webapp.store.database import make_engine, make_sessions, upgrade

    engine = make_engine(settings.database_url)
    upgrade(engine)
    jobs = JobClient(settings, engine)
    with make_sessions(engine)() as session:
        (install if always else install_when_fresh)(session, file_store(settings), jobs)
    jobs.close()
    engine.dispose()
