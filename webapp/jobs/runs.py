"""A run's work, stage by stage. Each function may be called again after a crash at any point: what a row says is
done is not done twice, and a run that was cancelled or retried meanwhile is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from webapp.engine.errors import PareError
from webapp.engine.run.expectation import learned
from webapp.engine.run.footprint import RunFootprint
from webapp.engine.run.receipt import conclude
from webapp.engine.run.stages import RunStage, format_of, is_pointless, plan_stages
from webapp.engine.run.stages.base import StageResults
from webapp.engine.weights.originals import is_weights
from webapp.store.clock import now
from webapp.store.database import writing
from webapp.store.errors import StoreError
from webapp.store.files import FileStore
from webapp.store.models import Artifact, LogLine, Profile, Run, RunState, Stage, StageState

from .client import end_job
from .errors import Stopped
from .job_files import run_given, run_sources, source_digests, stage_job
from .job_progress import RunProgress, seconds_taken
from .job_work import JobWork
from .lying_files import require_unchanged
from .queues import RUN

log = logging.getLogger(__name__)

DONE = (StageState.SUCCEEDED, StageState.REUSED)
SETTLED = (*DONE, StageState.FAILED, StageState.SKIPPED)


def find_reusable(session: Session, key: str, files: FileStore) -> Stage | None:
    """The latest stage of this key that succeeded and whose files are all still there."""
    made = (StageState.SUCCEEDED, StageState.REUSED)
    for stage in session.scalars(
        select(Stage).where(Stage.key == key, Stage.state.in_(made)).order_by(Stage.id.desc())
    ):
        if all(files.exists(entry["digest"]) for entry in stage.files.values()):
            return stage
    return None


class RunWork(JobWork):
    """One attempt at a run."""

    kind = RUN

    def begin(self) -> list[str]:
        """Plans the stages and returns their names; none when the run is not to be worked on."""
        try:
            if (run := self._read()) is not None:
                self._require_sources(run)  # also where every stage was done before
            return self._plan()
        except (PareError, StoreError) as error:
            self.fail(error.as_dict())
            return []

    def stage(self, name: str) -> bool:
        """Does one stage, or finds its output. False when the run has ended here: failed, cancelled or retried.

        What fails in a format's own stage fails that format; its other stages are skipped, and the run goes on.
        """
        form = None
        try:
            run = self._read()
            if run is None:
                return False
            planned = plan_stages(run_given(run))
            form = planned[name].format
            stage = next(stage for stage in run.stages if stage.name == name)
            whole = all(self.place.files.exists(entry["digest"]) for entry in stage.files.values())
            if (stage.state in DONE and whole) or stage.state == StageState.FAILED:
                return True
            if is_pointless(planned[name], planned, [row.name for row in run.stages if row.state == StageState.FAILED]):
                self._record(stage, StageState.SKIPPED, {}, None)
                return True
            progress = self._progress(run, stage, planned)
            return self._reuse(stage, progress) or self._compute(run, stage, planned[name], progress)
        except Stopped:  # a retry goes on with what the stage has kept
            return False
        except (PareError, StoreError) as error:
            if form:
                return self._give_up(name, error.as_dict())
            self.fail(error.as_dict(), name)
            return False

    def finish(self) -> None:
        """Puts the receipt together; with it, and its artifacts, the run has succeeded."""
        try:
            with writing(self.place.sessions) as session:
                run = self._mine(session)
                if run is None:
                    return
                done = [stage for stage in run.stages if stage.state in DONE]
                results = StageResults(
                    {stage.name: stage.facts or {} for stage in done},
                    {stage.name: stage.files for stage in done},
                    {stage.name: stage.error or {} for stage in run.stages if stage.state == StageState.FAILED},
                )
                concluded = conclude(
                    run_given(run),
                    run_sources(run),
                    results,
                    name=run.name,
                    started_at=run.started_at.isoformat() if run.started_at else None,
                    companions={name: file for name, file in run.checkpoint.files.items() if not is_weights(name)},
                    earlier=run.receipt,
                    expected=run.expected,
                )
                run.baseline, run.result, run.receipt = (concluded[part] for part in ("baseline", "result", "receipt"))
                self._teach_profile(session, run)
                run.artifacts.clear()
                session.flush()
                run.artifacts = [_artifact(found) for found in concluded["artifacts"]]
                run.state, run.finished_at, run.progress = RunState.SUCCEEDED, now(), 1.0
                run.message, run.seconds_left = "Done", None
            self._forget_scratch()
        except (PareError, StoreError) as error:
            self.fail(error.as_dict())

    def fail(self, error: dict[str, Any], stage_name: str | None = None) -> None:
        """Ends the run with the error, unless it has ended already or is in another attempt."""
        with writing(self.place.sessions) as session:
            run = self._mine(session)
            if run is None:
                return
            session.add(LogLine(run_id=run.id, stage=stage_name or "", text=error["message"].replace("\0", "")))
            end_job(run, RunState.FAILED, "Failed", error)
            for stage in run.stages:
                if stage.name == stage_name:
                    stage.state, stage.finished_at = StageState.FAILED, now()
        log.warning("Run %s failed: %s", self.id, error["message"])

    def _teach_profile(self, session: Session, run: Run) -> None:
        """What was measured joins the profile that foretold it, in place of what this run measured before."""
        if run.expected is None or run.result is None or run.receipt is None:
            return
        profile = session.get(Profile, run.expected["profile_id"], with_for_update=True)
        found = learned(run.expected, run.result, run.receipt["verdict"], run.id)
        if profile is not None and found is not None:
            others = [each for each in profile.measured if each["run_id"] != run.id]
            profile.measured = [*others, found.model_dump(mode="json")]

    def _plan(self) -> list[str]:
        with writing(self.place.sessions) as session:
            run = self._mine(session)
            if run is None:
                return []
            known, sources = {stage.name: stage for stage in run.stages}, source_digests(run)
            planned = plan_stages(run_given(run))
            run.stages = [stage for stage in run.stages if stage.name in planned]
            for position, (name, plan) in enumerate(planned.items()):
                key = plan.key(sources)
                stage = known.get(name) or Stage(name=name, key="")
                stage.position, stage.title = position, plan.title
                # new, or Pare was updated between two attempts; what was delivered already stays as it is
                if stage.key != key and not (run.receipt is not None and stage.state in SETTLED):
                    stage.key, stage.state, stage.files, stage.facts = key, StageState.WAITING, {}, None
                    stage.curves = None
                if name not in known:
                    run.stages.append(stage)
            run.state, run.started_at = RunState.RUNNING, run.started_at or now()
            return list(planned)

    def _reuse(self, stage: Stage, progress: RunProgress) -> bool:
        """Takes over the output of a stage that depends on the same things, where there is one."""
        with self.place.sessions() as session:
            earlier = find_reusable(session, stage.key, self.place.files)
        if earlier is None:
            return False
        self._record(stage, StageState.REUSED, earlier.files, earlier.facts, earlier.curves)
        progress.tell(1.0, stage.title, [f"{stage.title}: the output of an earlier run is reused"])
        return True

    def _compute(self, run: Run, stage: Stage, plan: RunStage, progress: RunProgress) -> bool:
        """Has the child do the stage, and keeps its output. Nothing of the database is held meanwhile."""
        self.place.files.require_free(0)
        with self.place.folder_for(f"{run.id}-{run.attempt}-{stage.name}") as folder:
            done = {other.name: other for other in run.stages if other.state in DONE}
            job = stage_job(self.place, run, plan, done, folder)
            self._record(stage, StageState.RUNNING, {}, None)
            progress.tell(0.0, stage.title, [stage.title, *self._why_again(run, stage)])
            order = {"task": "stage", **job.model_dump(mode="json"), **self.place.limits()}
            if run.needs is not None:
                order["foreseen_bytes"] = RunFootprint.model_validate(run.needs).of_stage(stage.name)
            facts = self.place.children.run(order, folder, progress.tell, self.unwanted)
            self._require_sources(run)  # once more: it was read meanwhile
            files = self.place.files.put_folder(job.output)
        self._record(stage, StageState.SUCCEEDED, files, facts, shared=len(job.inputs) == len(plan.inputs))
        self._forget_scratch(stage.key)
        progress.tell(1.0, stage.title, [])
        return True

    def _why_again(self, run: Run, stage: Stage) -> list[str]:
        """What the log says where a run goes on from another, whose stage has to be done anew."""
        earlier = Stage.run_id == run.continued_from_id, Stage.name == stage.name, Stage.state.in_(DONE)
        with self.place.sessions() as session:
            key = session.scalar(select(Stage.key).where(*earlier))
        if key is None or format_of(stage.name) is not None:
            return []
        why = "what the earlier run left is not kept any more"
        why = why if key == stage.key else "the data, the seed or Pare itself is another since the earlier run"
        return [f"{stage.title} is made again: {why}."]

    def _give_up(self, stage_name: str, error: dict[str, Any]) -> bool:
        """Fails the stage, and with it its format. False when the run has ended meanwhile."""
        with writing(self.place.sessions) as session:
            run = self._mine(session)
            if run is None:
                return False
            stage = next(stage for stage in run.stages if stage.name == stage_name)
            stage.state, stage.error, stage.finished_at = StageState.FAILED, error, now()
            text = f"{stage.title}: failed, and the run goes on without it. {error['message']}"
            session.add(LogLine(run_id=run.id, stage=stage_name, text=text.replace("\0", "")))
            key = stage.key
        self._forget_scratch(key)
        log.warning("%s of run %s failed: %s", stage_name, self.id, error["message"])
        return True

    def _progress(self, run: Run, stage: Stage, planned: Mapping[str, RunStage]) -> RunProgress:
        weights = {name: plan.weight for name, plan in planned.items()}
        done = seconds_taken([other for other in run.stages if other.name != stage.name])
        return RunProgress(self.place.sessions, Run, run.id, run.attempt, stage.name, weights, done)

    def _record(
        self,
        stage: Stage,
        state: StageState,
        files: dict[str, Any],
        facts: Any,
        curves: Any = None,
        shared: bool = True,
    ) -> None:
        """Notes what became of the stage; `curves` of one that is reused. Raises Stopped when the run has ended.

        What was made without one of its inputs is not `shared`: no other run shall take it for the whole.
        """
        with writing(self.place.sessions) as session:
            if (run := self._mine(session)) is None:
                raise Stopped(f"run {self.id} has ended")
            row = session.get_one(Stage, stage.id)
            row.state, row.files, row.facts, row.error = state, files, facts, None
            row.curves = curves or row.curves
            row.key = row.key if shared else f"{run.id}-{run.attempt}-{stage.name}"[:64]
            if state != StageState.SUCCEEDED:
                row.started_at = now()
            row.finished_at = None if state == StageState.RUNNING else now()

    def _require_sources(self, run: Run) -> None:
        """Raises SourceChanged."""
        for checkpoint in filter(None, (run.checkpoint, run.teacher_checkpoint)):
            require_unchanged(self.place, checkpoint)

    def _read(self) -> Run | None:
        """The run with all that a stage reads, free of any session."""
        parts = (Run.checkpoint, Run.dataset, Run.training_dataset, Run.teacher_checkpoint, Run.stages)
        with self.place.sessions() as session:
            run = session.get(Run, self.id, options=[selectinload(part) for part in parts])
        return run if run and run.attempt == self.attempt and not run.state.final else None


def _artifact(found: dict[str, Any]) -> Artifact:
    names = ("name", "format", "state", "reason", "digest", "size_bytes", "proof")
    return Artifact(**{name: found[name] for name in names if name in found})
