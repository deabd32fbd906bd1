"""A run's dataset replayed through its deployment, alone or in turns with the original or another deployment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.serving.traffic import CLIENT_LEFT, NO_ANSWER, added, cumulative
from webapp.store.clock import now
from webapp.store.database import locked
from webapp.store.models import THE_ORIGINAL, Deployment, DeploymentState, Replay, Run, RunState
from webapp.units import FRACTIONS, lowered, measured_text

from .deployments import deployments, require_here, tryout_deployment
from .errors import BodyInvalid, Conflict, NotFound

ORIGINAL = "original"
MOST_SAMPLES, MOST_SECONDS = 10_000, 600
SAMPLES, SECONDS = 500, 60
MOST_LOAD = 1.5  # programs that want each processor, beyond which times are not compared
KEPT = 10  # replays of a deployment
OPEN = (RunState.QUEUED, RunState.RUNNING)


class ReplayRequest(BaseModel, extra="forbid"):
    samples: int = Field(SAMPLES, ge=1, le=MOST_SAMPLES, description="At most, from the first that is evaluated on.")
    seconds: float = Field(SECONDS, ge=1, le=MOST_SECONDS, description="At most; what was answered by then counts.")
    beside: str | None = Field(
        None,
        max_length=63,
        description="Is sent the same requests in turns: `original`, which is started where it is not deployed, or the "
        "name of another deployment of the same checkpoint.",
    )


def why_no_replay(row: Deployment) -> str | None:
    """Why nothing can be replayed through it, as a sentence; None where it can."""
    run = row.run
    if run.dataset is None:
        return (
            f"The run {run.name} has no dataset, so there is nothing to replay. Fork it with one, and deploy the fork."
        )
    if (run.result or {}).get("metrics_unavailable"):
        return f"The run's dataset says nothing about this model. {run.result['metrics_unavailable']}"  # type: ignore[index]
    return None


def comparable(session: Session, row: Deployment) -> list[Deployment]:
    """The deployments of models that came of the same checkpoint and run on the same machine, but itself."""
    return [
        each
        for each in deployments(session)
        if each.id != row.id and each.machine == row.machine and each.run.checkpoint_id == row.run.checkpoint_id
    ]


def start_replay(session: Session, machine: str, row: Deployment, asked: ReplayRequest) -> Replay:
    """Has it done by the deployer. Raises Conflict, BodyInvalid, Unavailable."""
    if locked(session, row) is None:
        raise NotFound(f"There is no deployment {row.name}. It may have been deleted.")
    require_here(row, machine)
    if why := why_no_replay(row):
        raise Conflict(why)
    if row.state is not DeploymentState.READY:
        raise Conflict(f"{row.name} is {row.state}; it has to run before anything is sent to it.")
    if session.scalar(select(Replay.id).where(Replay.deployment_id == row.id, Replay.state.in_(OPEN))):
        raise Conflict(f"A replay through {row.name} is under way already; stop it, or wait for its end.")
    beside = _beside(session, machine, row, asked.beside) if asked.beside else None
    replay = Replay(deployment_id=row.id, beside_id=beside and beside.id, samples=asked.samples, seconds=asked.seconds)
    session.add(replay)
    for old in replays_of(session, row)[KEPT:]:
        session.delete(old)
    session.commit()
    return replay


def _beside(session: Session, machine: str, row: Deployment, name: str) -> Deployment:
    if name == ORIGINAL:
        if row.of_original:
            raise BodyInvalid(f"{row.name} is the original itself; choose another deployment, or none.", "beside")
        deployed = deployed_original(session, row)
        return deployed or tryout_deployment(session, machine, row.run, ORIGINAL)
    found = next((each for each in comparable(session, row) if each.name == name), None)
    if found is None:
        names = ", ".join([ORIGINAL, *(each.name for each in comparable(session, row))])
        raise BodyInvalid(f"{name[:63]!r} cannot be compared with {row.name}; there is {names}.", "beside")
    if found.state is not DeploymentState.READY:
        raise Conflict(f"{found.name} is {found.state}; it has to run before anything is sent to it.", "beside")
    return found


def deployed_original(session: Session, row: Deployment) -> Deployment | None:
    """The original of its run where it is deployed too, and runs."""
    ready = (each for each in comparable(session, row) if each.state is DeploymentState.READY)
    return next((each for each in ready if each.of_original and each.run_id == row.run_id), None)


def replays_of(session: Session, row: Deployment) -> list[Replay]:
    """Newest first."""
    listed = select(Replay).where(Replay.deployment_id == row.id)
    return list(session.scalars(listed.order_by(Replay.created_at.desc(), Replay.id)))


def replay_of(session: Session, row: Deployment, id: str) -> Replay:
    """Raises NotFound."""
    found = session.get(Replay, id) if id.isalnum() else None
    if found is None or found.deployment_id != row.id:
        raise NotFound(f"There is no replay {id[:40]!r} of {row.name}; of each deployment the last {KEPT} are kept.")
    return found


def asked_of(replay: Replay) -> ReplayRequest:
    """What would send the same again."""
    others = (replay.result or {}).get("sides", ())[1:]
    beside = next((ORIGINAL if side["title"] == THE_ORIGINAL else side["name"] for side in others), None)
    return ReplayRequest(samples=replay.samples, seconds=replay.seconds, beside=beside)


def stop_replay(session: Session, replay: Replay) -> None:
    """Nothing happens to one that has ended."""
    if not replay.state.final:
        replay.state, replay.message, replay.finished_at = RunState.CANCELLED, "Stopped", now()
        replay.seconds_left = None
        session.commit()


@dataclass(frozen=True)
class ReplayedSide:
    """`latency`, `metrics` and `recorded` as the replay's result has them."""

    title: str
    told: dict[str, Any]

    @property
    def shares(self) -> list[tuple[float, float]]:
        """(milliseconds, the share of the answers that came within them)."""
        return cumulative(added([self.told["latencies"]]))

    @property
    def errors(self) -> str:
        """ "3 refused (400)" and so on; empty where all was answered."""
        found = []
        for status, count in sorted((int(status), count) for status, count in self.told["errors"].items()):
            silent = status in (NO_ANSWER, CLIENT_LEFT)
            how = "not answered" if silent else "failed" if status >= 500 else "refused"
            found.append(f"{count:,} {how}" + (f" ({status})" if status != NO_ANSWER else ""))
        return ", ".join(found)


@dataclass(frozen=True)
class ReplayReport:
    """A replay that has ended well, with what there is to say of it. The first side is the deployment."""

    replay: Replay
    sides: list[ReplayedSide]

    @classmethod
    def of(cls, replay: Replay) -> ReplayReport | None:
        if replay.result is None:
            return None
        sides = [ReplayedSide(each["title"], each) for each in replay.result["sides"]]
        return cls(replay, sides)

    @property
    def metrics(self) -> list[tuple[str, str]]:
        """(name, title) of what was measured on the answers."""
        found = {name: metric["title"] for side in self.sides for name, metric in side.told["metrics"].items()}
        return list(found.items())

    @property
    def between(self) -> list[tuple[str, str]]:
        """(title, value) of how alike both answered."""
        other = _in_sentence(self.sides[-1].title)
        return [
            (metric["title"].replace("the original", other), measured_text(metric["value"], name))
            for name, metric in (self._result["between"] or {}).items()
            if name != "not_finite"
        ]

    @property
    def extent(self) -> str:
        """How much of the dataset it was."""
        result = self._result
        noun = "text" if result["tokens"] else "sample"
        if result["gone"]:
            return (
                f"It was ended after {counted(result['replayed'], noun)} of {result['total']:,}, for "
                f"{' and '.join(map(_in_sentence, result['gone']))} did not answer any more."
            )
        if result["replayed"] < result["total"]:
            return (
                f"{result['replayed']:,} of {counted(result['total'], noun)}, for the {self.replay.seconds:g} s were "
                "over; give it more time for all of them."
            )
        return f"{counted(result['replayed'], noun)} in {result['seconds']:.1f} s."

    @property
    def agrees(self) -> bool:
        """Whether all answer as the run recorded, as far as that is known."""
        return not any(_strays(side.told) for side in self.sides)

    @property
    def good(self) -> bool:
        """Whether all was answered with numbers, and as recorded."""
        return self.agrees and not any(side.errors or "not_finite" in side.told["metrics"] for side in self.sides)

    @property
    def busy(self) -> str | None:
        """The sentence on a machine that had more to do, or let requests wait longer than the model worked on them."""
        if self._result["load"] > MOST_LOAD:
            return f"The machine was busy: {self._result['load']:.1f} programs shared each of its processors."
        for side in self.sides:
            client, inside = side.told["client_latency_ms"], side.told["latency_ms"]
            if inside and client["p50"] > 3 * inside["p50"] and client["p50"] > inside["p50"] + 0.3:
                return (
                    f"The machine was busy: of the {client['p50']:.3g} ms that half of the requests to "
                    f"{_in_sentence(side.title)} took at most, its process was at work {inside['p50']:.3g} ms."
                )
        return None

    @property
    def sentences(self) -> list[str]:
        """What the figures mean: as served beside as measured, and the two sides beside each other."""
        noun = "text" if self._result["tokens"] else "sample"
        found = [sentence for side in self.sides if (sentence := _as_measured(side, noun))]
        if len(self.sides) == 2:
            if any(side.told["answered"] > self._result["paired"] for side in self.sides):
                found.append(f"Both are scored on the {counted(self._result['paired'], noun)} that both answered.")
            found.append(self._speed())
        for side in self.sides:
            if broken := side.told["metrics"].get("not_finite"):
                share = measured_text(broken["value"], "not_finite")
                found.append(f"{share} of the answers of {_in_sentence(side.title)} hold NaN or infinity.")
        if self.sides[0].told["recorded"] is None and len(self.sides) == 1:
            found.append("The run kept no answers that these could be compared with.")
        if self._result["sent_as"] == "texts" and not self.agrees:
            found.append(
                "The texts were sent as they are, and cut where the model's window ends; the run measured the first "
                "128 tokens of each."
            )
        if self._result["tokens"]:
            found.append(
                f"Of each text the first {self._result['tokens']:,} tokens were sent, and answered with the scores of "
                "every next token; nothing was written."
            )
        if self.busy and self._result["speed"] is None:
            found.append(self.busy)
        return found

    def _speed(self) -> str:
        speed, other = self._result["speed"], _in_sentence(self.sides[1].title)
        if speed is None:
            return "Too few requests were answered by both to compare how fast they are."
        low, high = speed["ci95"]
        measured = (
            f"ratio {speed['ratio']:.2f}, 95 % interval {low:.2f} to {high:.2f}, over {speed['turns']:,} requests"
        )
        if self.busy:
            return f"{self.busy} Which of both is faster is not shown: {measured}."
        said = speed["words"].replace("the original", other)
        return f"{self.sides[0].title} is {said}: {measured} that both answered in turns."

    @property
    def _result(self) -> dict[str, Any]:
        assert self.replay.result is not None
        return self.replay.result


def _as_measured(side: ReplayedSide, noun: str) -> str | None:
    """What was measured as served beside what the run measured of the same samples; None where it kept nothing."""
    known = side.told["recorded"]
    if known is None:
        return None
    said = f"As served, {_in_sentence(side.title)} answers {counted(known['compared'], noun)}"
    now, then = [], []
    for name, before in known["metrics"].items():
        found = side.told["metrics"][name]
        now.append(f"{lowered(found['title'])} {measured_text(found['value'], name)}")
        if not _near(found["value"], before["value"], name):
            then.append(f"{lowered(found['title'])} {measured_text(before['value'], name)}")
    said += f" with {' and '.join(now)}" if now else ""
    if now:
        said += f", where the run measured {' and '.join(then)} on the same ones" if then else ", as the run measured"
    if known["different"] is None:
        return f"{said}."
    if not known["different"]:
        return f"{said}; every answer is the recorded one."
    are = "is not the recorded one" if known["different"] == 1 else "are not the recorded ones"
    return f"{said}; {known['different']:,} of the {known['compared']:,} answers {are}."


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _in_sentence(title: str) -> str:
    """Within a sentence."""
    return "the original" if title == THE_ORIGINAL else title


def _strays(told: dict[str, Any]) -> bool:
    known = told["recorded"]
    if known is None:
        return False
    far = (not _near(told["metrics"][name]["value"], then["value"], name) for name, then in known["metrics"].items())
    return bool(known["different"]) or any(far)


def _near(one: float | None, other: float | None, metric: str) -> bool:
    if one is None or other is None:
        return one is other
    return one == other if metric in FRACTIONS else abs(one - other) <= 0.001 * abs(other)


def reports(replays: Sequence[Replay]) -> list[ReplayReport]:
    return [report for replay in replays if (report := ReplayReport.of(replay)) is not None]


def original_servable(run: Run) -> bool:
    """Whether the original was written in the format of the run's file that is served."""
    return any(stage.name.startswith("original-") and stage.files for stage in run.stages)
