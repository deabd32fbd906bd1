"""Compression without a server: the same stages in the same child processes, in a working folder of its own."""

from __future__ import annotations

import hashlib
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webapp.config import cores
from webapp.jobs.child import ChildSupervisor, Tell
from webapp.jobs.examinations import look_at_structure, try_formats

if TYPE_CHECKING:
    from webapp.engine.profiles.facts import ProfileFacts
    from webapp.engine.run.stages import RunStage
    from webapp.engine.run.stages.job import CheckpointGiven, DataGiven, DatasetGiven, SourcesGiven, StageOutput

Files = dict[str, dict[str, Any]]


@dataclass
class Workbench:
    """`folder` is emptied at the end; each piece of work gets a folder of its own in it.

    `limit_bytes`: the memory that each stage, and a profile, may take; None: as much as there is.
    """

    folder: Path
    supervisor: ChildSupervisor
    limit_bytes: int | None = None

    def stage(
        self,
        stage: RunStage,
        sources: SourcesGiven,
        done: Mapping[str, StageOutput],
        tell: Tell,
        foreseen_bytes: int | None = None,
    ) -> StageOutput:
        """Does a stage of a run, `done` being those before, in at most so much memory as far as that is enough.

        Raises ChildFailed, ChildDied or OutOfMemory.
        """
        from webapp.engine.run.stages import StageJob
        from webapp.engine.run.stages.job import StageOutput

        place = self._place(stage.name)
        inputs = {name: done[name] for name in stage.inputs if name in done}
        job = StageJob.of(stage, sources, inputs, place / "output", place / "scratch")
        order = {"task": "stage", **job.model_dump(mode="json"), "foreseen_bytes": foreseen_bytes}
        facts = self._held(order, place, tell)
        return StageOutput(folder=job.output, facts=facts)

    def profile(self, asked: DataGiven, sources: SourcesGiven, tell: Tell) -> ProfileFacts:
        """Raises as `stage` does."""
        from webapp.engine.profiles.facts import ProfileFacts
        from webapp.engine.run.profile_job import ProfileJob

        place = self._place("profile")
        job = ProfileJob(run=asked, **dict(sources), output=place / "output", scratch=place / "scratch")
        found = self._held({"task": "profile", **job.model_dump(mode="json")}, place, tell)
        return ProfileFacts.model_validate(found)

    def checkpoint(
        self,
        path: Path,
        tell: Tell,
        dequantize: bool = False,
        use: str | None = None,
        importance: Path | None = None,
    ) -> CheckpointGiven:
        """A file or folder after inspection, used where it lies; `use` is what the model is for.

        See `look_at_structure`. Raises as `stage` does.
        """
        from webapp.engine.facts import CheckpointFacts
        from webapp.engine.importers.located import display_name
        from webapp.engine.importers.reading import digest_of_sources
        from webapp.engine.run.stages.job import CheckpointGiven

        path = path.absolute()  # a link as it is: what belongs to it lies beside it
        called = display_name(path)
        options = {"dequantize": dequantize, "use": use, "in_place": True, "importance": importance}
        folder, found = self._inspect("inspect_checkpoint", path, called, tell, **options)
        facts = CheckpointFacts.model_validate(found)
        return CheckpointGiven(
            folder=folder,
            facts=facts,
            name=called if path.is_dir() else path.stem,
            filename=called,
            digest=digest_of_sources(facts.sources),
            size_bytes=sum(source.size_bytes for source in facts.sources),
        )

    def dataset(self, path: Path, tell: Tell, split: str = "auto") -> DatasetGiven:
        """A file after inspection; `split` "all": every sample evaluates. Raises as `stage` does."""
        from webapp.engine.run.stages.job import DatasetGiven

        folder, facts = self._inspect("inspect_dataset", path.resolve(), path.name, tell, split=split)
        return DatasetGiven(folder=folder, facts=facts, name=path.stem, digest=digest_of(path))

    def look_at_structure(self, checkpoint: CheckpointGiven, tell: Tell) -> CheckpointGiven:
        """The checkpoint, whose facts say what of it can be cut, as recipes want it."""
        place = self._place("structure")
        return _told(checkpoint, look_at_structure(self.supervisor, _facts(checkpoint), place, tell, lambda: False))

    def try_formats(self, checkpoint: CheckpointGiven, tell: Tell) -> CheckpointGiven:
        """The checkpoint, whose facts say which formats it cannot be written in."""
        place = self._place("formats")
        found = try_formats(self.supervisor, _facts(checkpoint), checkpoint.folder, place, tell, lambda: False)
        return _told(checkpoint, found)

    def _inspect(self, task: str, path: Path, filename: str, tell: Tell, **options: Any) -> tuple[Path, Any]:
        """(where the normalised files lie, the facts)."""
        from webapp.engine.run.inspection import InspectionJob

        place = self._place(task)
        job = InspectionJob.model_validate(
            {"task": task, "upload": path, "filename": filename, "output": place / "output", **options}
        )
        return job.output, self.supervisor.run(job.model_dump(mode="json"), place, tell, lambda: False)

    def _held(self, order: dict[str, Any], place: Path, tell: Tell) -> Any:
        return self.supervisor.run({**order, "memory_limit_bytes": self.limit_bytes}, place, tell, lambda: False)

    def _place(self, name: str) -> Path:
        place = self.folder / f"{sum(1 for _ in self.folder.iterdir())}-{name}"
        place.mkdir()
        return place


@contextmanager
def workbench(parent: Path, limit_bytes: int | None = None) -> Iterator[Workbench]:
    """A working folder beside the result, so that files are renamed into place; gone at the end, whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix=".pare-", dir=parent))
    supervisor = ChildSupervisor(threads=cores())
    supervisor.forks.prepare()  # which imports while this process does
    ended = signal.signal(signal.SIGTERM, signal.default_int_handler)  # by SIGTERM as by Ctrl-C: nothing stays behind
    try:
        yield Workbench(folder, supervisor, limit_bytes)
    finally:
        signal.signal(signal.SIGTERM, ended)
        supervisor.forks.close()
        shutil.rmtree(folder, ignore_errors=True)


def _facts(checkpoint: CheckpointGiven) -> dict[str, Any]:
    return checkpoint.facts.model_dump(mode="json")


def _told(checkpoint: CheckpointGiven, facts: dict[str, Any]) -> CheckpointGiven:
    return checkpoint.model_copy(update={"facts": type(checkpoint.facts).model_validate(facts)})


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_in(folder: Path, leave_out: Callable[[str], bool] = lambda name: False) -> Files:
    """{path: {"digest", "size_bytes"}} of the files below a folder, as the store describes what it keeps."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: {"digest": digest_of(path), "size_bytes": path.stat().st_size}
        for name, path in found.items()
        if not leave_out(name)
    }
