"""`pare doctor`: whether everything that Pare needs is there, line by line."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import psutil

from webapp.config import InstallationSettings, cores, memory_bytes

from .options import instance as with_instance

PACKAGES = ("pare", "flask", "sqlalchemy", "dbos", "torch", "transformers", "safetensors", "plotly")


class Wrong(Exception):
    """A check's sentence of what is wrong and what to do."""


@click.command()
@with_instance
def doctor(instance: Path) -> None:
    """Check the installation and say what is wrong. Exit status 1 if anything is."""
    settings = InstallationSettings.load(instance)
    wrong = False
    for name, check in CHECKS.items():
        try:
            for line in check(settings):
                click.echo(f"  ok  {name}: {line}")
        except Wrong as error:
            wrong = True
            click.echo(f"WRONG {name}: {error}")
    raise SystemExit(int(wrong))


def check_versions(settings: InstallationSettings) -> Iterator[str]:
    found = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError as error:
            raise Wrong(f"the package {package} is not installed; run `make setup`") from error
    yield ", ".join(found)


def check_instance(settings: InstallationSettings) -> Iterator[str]:
    try:
        with tempfile.TemporaryFile(dir=settings.instance):
            yield f"{settings.instance} can be written"
    except OSError as error:
        raise Wrong(f"{settings.instance} cannot be written ({error.strerror}); choose another --instance") from error
    free_bytes = shutil.disk_usage(settings.instance).free
    if free_bytes < settings.min_free_bytes:
        raise Wrong(f"only {gigabytes(free_bytes)} are free there, less than min_free_bytes; make room")
    yield f"{gigabytes(free_bytes)} are free there"


def check_memory(settings: InstallationSettings) -> Iterator[str]:
    limit_bytes, granted_bytes = settings.run_memory_limit_bytes, memory_bytes()
    if limit_bytes > granted_bytes:
        raise Wrong(
            f"run_memory_limit_bytes is {gigabytes(limit_bytes)}, more than the {gigabytes(granted_bytes)} there are"
        )
    yield (
        f"{gigabytes(granted_bytes)}, {gigabytes(psutil.virtual_memory().available)} of it free; "
        f"a run may take {gigabytes(limit_bytes)}"
    )


def check_torch(settings: InstallationSettings) -> Iterator[str]:
    try:
        import torch
    except (ImportError, OSError) as error:
        raise Wrong(f"torch cannot be imported ({error}); run `make setup`") from error
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    threads = settings.threads(settings.workers)
    yield f"{torch.__version__}, accelerator {accelerator}, {cores()} cores, {threads} threads a run"


def check_database(settings: InstallationSettings) -> Iterator[str]:
    from sqlalchemy.exc import OperationalError

    from webapp.store.database import make_engine, unreachable, upgrade
    from webapp.store.errors import DatabaseUnusable

    engine = make_engine(settings.database_url)
    try:
        upgrade(engine)
    except OperationalError as error:
        raise Wrong(unreachable(engine, error)) from error
    except DatabaseUnusable as error:
        raise Wrong(error.message) from error
    yield f"{engine.url.render_as_string(hide_password=True)} answers"


def check_files(settings: InstallationSettings) -> Iterator[str]:
    from webapp.jobs.workplace import file_store
    from webapp.store.errors import StoreError

    try:
        file_store(settings).check()
    except StoreError as error:
        raise Wrong(error.message) from error
    except (OSError, ImportError, ValueError) as error:
        raise Wrong(f"{settings.files_url} cannot be used: {error}; check files_url") from error
    yield f"{settings.files_url} can be written and read"


def check_import_folders(settings: InstallationSettings) -> Iterator[str]:
    for folder in settings.import_folders:
        if not folder.is_dir():
            raise Wrong(f"{folder} is no folder; make it, or take it out of import_folders")
        if not os.access(folder, os.R_OK | os.X_OK):
            raise Wrong(f"{folder} cannot be read by this user; grant it, or take it out of import_folders")
        yield f"{folder} can be read"
    if not settings.import_folders:
        yield "none is named"


def check_workers(settings: InstallationSettings) -> Iterator[str]:
    from sqlalchemy import select
    from sqlalchemy.exc import SQLAlchemyError

    from webapp.store.clock import clock
    from webapp.store.database import make_engine, make_sessions
    from webapp.store.models import Worker

    try:
        with make_sessions(make_engine(settings.database_url))() as session:
            workers, at = list(session.scalars(select(Worker))), clock(session)
    except SQLAlchemyError as error:
        raise Wrong("cannot be counted without the database") from error
    stale = timedelta(seconds=settings.worker_stale_seconds)
    for worker in workers:
        silent = at - worker.seen_at
        if silent > stale:
            raise Wrong(
                f"{worker.executor_id} was silent for {silent.total_seconds():.0f} s; its work will be taken over"
            )
        yield f"{worker.executor_id} on {worker.host} is alive: {abilities(worker.able or {})}"
    if not workers:
        yield "none is running; `pare serve` starts them"


def check_webhooks(settings: InstallationSettings) -> Iterator[str]:
    from urllib.parse import urlsplit

    from sqlalchemy.exc import SQLAlchemyError

    from webapp.actions.webhooks import deliveries, webhooks
    from webapp.outgoing.addresses import AddressRefused, networks_of, target_of
    from webapp.store.database import make_engine, make_sessions
    from webapp.store.models import RunState

    try:
        with make_sessions(make_engine(settings.database_url))() as session:
            found = [(row, deliveries(session, row, 1)) for row in webhooks(session) if row.enabled]
    except SQLAlchemyError as error:
        raise Wrong("cannot be listed without the database") from error
    for row, last in found:
        name = f"{row.id} to {urlsplit(row.url).hostname}"  # the rest of an address is often a secret
        try:
            target_of(row.url, networks_of(settings.webhook_networks))
        except AddressRefused as error:
            raise Wrong(f"{name}: {error.message}") from error
        if last and last[0].state is RunState.FAILED:
            raise Wrong(f"{name}: the last message was given up. {last[0].error}")
        yield f"{name} can be looked up"
    if not found:
        yield "none is switched on"


CHECKS: dict[str, Callable[[InstallationSettings], Iterator[str]]] = {
    "versions": check_versions,
    "instance": check_instance,
    "memory": check_memory,
    "torch": check_torch,
    "database": check_database,
    "files": check_files,
    "import folders": check_import_folders,
    "workers": check_workers,
    "webhooks": check_webhooks,
}


def abilities(able: Mapping[str, Any]) -> str:
    """ "up to 20.2 GB for a run, cpu, onnxruntime 1.32.0, torch 2.13.0" """
    limit_bytes = able.get("memory_bytes")
    memory = f"up to {gigabytes(limit_bytes)} for a run" if limit_bytes else "no limit of memory"
    runtimes = (f"{name} {version}".strip() for name, version in sorted(able.get("runtimes", {}).items()))
    return ", ".join([memory, able.get("device", "cpu"), *runtimes])


def gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"
