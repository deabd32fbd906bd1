"""A result's way to the hub: its files, its receipt and a model card, pushed as one commit by the hub's child."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from webapp.engine.archive import extract, members
from webapp.engine.errors import PareError
from webapp.engine.recipe import Recipe
from webapp.engine.run.model_card import model_card
from webapp.store.clock import now
from webapp.store.database import writing
from webapp.store.errors import StoreError
from webapp.store.models import Publication, Run, RunState

from .errors import HubOff, Stopped
from .job_progress import JobProgress
from .job_work import JobWork
from .queues import PUBLICATION
from .workplace import Workplace

log = logging.getLogger(__name__)

IN_TRANSFORMERS = "compressed_tensors"  # whose zip is what `from_pretrained` loads
OWN = "pare"  # the folder of Pare's file, where another has its name


class PublicationWork(JobWork):
    """One attempt at pushing. May be called again after a crash at any point: the hub has what came before."""

    kind = PUBLICATION

    def publish(self) -> None:
        try:
            if (row := self._begin()) is not None:
                self._record(self._pushed(row))
        except Stopped:
            log.info("The publication %s is not wanted any more", self.id)
        except (PareError, StoreError) as error:
            self.fail(error.as_dict())

    def _begin(self) -> Publication | None:
        with writing(self.place.sessions) as session:
            row: Publication | None = self._mine(session)
            if row is None:
                return None
            row.state, row.started_at, row.message = RunState.RUNNING, row.started_at or now(), "Laying out the files"
            _ = row.run.artifacts, row.run.checkpoint
            return row

    def _pushed(self, row: Publication) -> dict[str, Any]:
        settings = self.place.settings
        if not (settings.hub_url and settings.hub_token):
            raise HubOff(
                "Results are pushed only where the settings hub_url and hub_token name a hub and a token for it."
            )
        progress = JobProgress(self.place.sessions, Publication, self.id, self.attempt)
        with self.place.folder_for(self.kind.workflow_id(self.id, self.attempt)) as folder:
            repository = laid_out(self.place, row.run, folder)
            job = {
                "task": "publish",
                "endpoint": settings.hub_url.rstrip("/"),
                "token": settings.hub_token,
                "repo_id": row.repo_id,
                "folder": str(repository),
                "private": row.private,
                "message": f"{row.run.name}: compressed by Pare"[:200],
                "output": str(folder / "output"),
            }
            found: dict[str, Any] = self.place.hub.run(job, folder, progress.tell, self.unwanted)
            return found

    def _record(self, found: dict[str, Any]) -> None:
        with writing(self.place.sessions) as session:
            row: Publication | None = self._mine(session)
            if row is not None:
                row.url, row.state, row.progress = str(found["url"])[:1000], RunState.SUCCEEDED, 1.0
                row.message, row.seconds_left, row.finished_at = "Done", None, now()


def laid_out(place: Workplace, run: Run, folder: Path) -> Path:
    """The repository of a run's result: what it delivered, receipt, recipe and model card.

    Where a folder for transformers was written, the repository is that folder, and Pare's own file is in `pare/`.
    """
    repository = folder / "repository"
    delivered = {artifact.name: artifact for artifact in run.artifacts if artifact.digest and not artifact.private}
    zipped = next((each for each in delivered.values() if each.format == IN_TRANSFORMERS), None)
    files = {name: {"digest": artifact.digest} for name, artifact in delivered.items() if artifact is not zipped}
    if zipped is None:
        place.files.materialise(files, repository)
    else:
        companions = {name for name, artifact in delivered.items() if artifact.format == "companion"}
        own = {"model.safetensors"}
        place.files.materialise({n: f for n, f in files.items() if n not in companions | own}, repository)
        place.files.materialise({n: f for n, f in files.items() if n in own}, repository / OWN)
        _unzipped(place.files.path(zipped.digest or ""), zipped.name, repository, folder)
    receipt, recipe = run.receipt or {}, Recipe.read(run.recipe).to_yaml()
    (repository / "receipt.json").write_text(json.dumps(receipt, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
    (repository / "recipe.yaml").write_text(recipe, encoding="utf8")
    names = sorted(path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file())
    source = run.checkpoint.source or {}
    base = source["repo_id"] if source.get("kind") == "hub" else None
    card = model_card(receipt, recipe, names, base, zipped is not None)
    (repository / "README.md").write_text(card, encoding="utf8")
    return repository


def _unzipped(path: Path, name: str, repository: Path, folder: Path) -> None:
    scratch = folder / "unpacked"
    scratch.mkdir()
    archive, found = members(path, name)
    with archive:
        for inside, file in extract(archive, found.values(), scratch).items():
            target = repository / Path(*Path(inside).parts[1:])  # without the folder that all of it is in
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
