"""Profiles that are done, and studies as they begin and as they end, without running one."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from tests.engine.profiles.drawn_profiles import drawn_facts, drawn_profile
from tests.web.views.seeded import measured, metric
from tests.web.views.seeded_receipt import receipt
from webapp.store.clock import now
from webapp.store.models import Checkpoint, Dataset, Profile, Run, RunState, Study, UploadState

DRAWN = drawn_facts(blocks=2)
SPEC = DRAWN.architecture.model_copy(update={"inputs": {"vocab": 96}, "config": {"model_type": "drawn"}})
FACTS = DRAWN.model_copy(update={"architecture": SPEC})
FOUND = drawn_profile(0, FACTS, measured=8)


def seed_profile(session: Session, name: str = "drawn.zip", **more: Any) -> Profile:
    given = {"state": UploadState.READY, "size_bytes": 1, "digest": "0" * 64, "facts": FACTS.model_dump(mode="json")}
    checkpoint = Checkpoint(name=name, filename=name, **given)
    session.add(checkpoint)
    session.flush()
    done = {"state": RunState.SUCCEEDED, "facts": FOUND.model_dump(mode="json"), "finished_at": now()} | more
    part = {"n": 40, "digest": "b" * 64}
    text = {"kind": "text", "split": "70/30", "evaluation": part, "training": part}
    dataset = Dataset(name="d.txt", filename="d.txt", **(given | {"facts": text}))
    session.add(dataset)
    session.flush()
    profile = Profile(checkpoint_id=checkpoint.id, dataset_id=dataset.id, key="k", **done)
    session.add(profile)
    session.commit()
    return profile


def divergence(value: float) -> dict[str, Any]:
    shown = {"value": value, "n": 540, "ci95": [0.9 * value, 1.1 * value], "higher_is_better": False, "unit": "nats"}
    return {"kl_divergence": {**shown, "title": "KL divergence from the original"}}


def seed_study(session: Session, kind: str = "race", name: str = "A study", done: bool = True) -> Study:
    """Two runs, the first of which wins where they are done."""
    profile = seed_profile(session, name)
    shared = {"families": None, "locks": {}, "run": {"exports": [], "seed": 0}}
    asked = {"tolerance": 0.1, "unit": "nats", "certain": False, "most_runs": 8, "most_minutes": 60}
    study = Study(
        name=name,
        kind=kind,
        state=RunState.SUCCEEDED if done else RunState.RUNNING,
        checkpoint_id=profile.checkpoint_id,
        profile_id=profile.id,
        question=shared | ({"goal": {"bytes": 20_000}, "size_bytes": 20_000} if kind == "race" else asked),
        started_at=now(),
    )
    session.add(study)
    session.flush()
    for number, title in enumerate(("Budget", "4 bits <b>")):
        result = measured(20_000 - 500 * number, 0.5, metric(0.95) | divergence(0.05 + 0.1 * number))
        expected = {"value": 0.06, "low": 0.04, "high": 0.09, "unit": "nats", "metric": "kl_divergence"}
        run = Run(
            name=f"{name}: {title}",
            checkpoint_id=profile.checkpoint_id,
            study_id=study.id,
            recipe={"version": 2, "steps": [{"technique": "cast"}]},
            state=RunState.SUCCEEDED if done else RunState.RUNNING,
            progress=1.0 if done else 0.5,
            role={"title": title, "why": "Because."} | ({"leads": True} if number == 0 else {}),
            expected={"profile_id": profile.id, "size_bytes": 20_000, "loss": expected},
        )
        if done:
            run.baseline, run.result = measured(80_000, 0.0, metric(0.97)), result
            run.receipt = receipt(run.name, run.baseline, result)
        session.add(run)
    session.flush()
    if done:
        session.refresh(study)
        first, second = study.runs
        row = {"difference": -0.1, "ci95": [-0.12, -0.08], "verdict": "better"}
        by_metric = {"kl_divergence": {"leader": first.id, "rows": {second.id: row}, "winner": first.id}}
        sentence = "Budget is better than every other."
        study.conclusion = {"winner": first.id, "sentence": sentence, "by_metric": by_metric}
    session.commit()
    return study
