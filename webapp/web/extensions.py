"""What the pages and the API work with, beside the database."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app

from webapp.config import InstallationSettings
from webapp.jobs.client import JobClient
from webapp.store.files import FileStore


@dataclass(frozen=True)
class Services:
    """Reached as `services()` within a request."""

    settings: InstallationSettings
    files: FileStore
    jobs: JobClient


def services() -> Services:
    found: Services = current_app.extensions["pare"]
    return found
