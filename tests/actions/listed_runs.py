"""Runs as the table lists them, of every sort, without a run having been made."""

from datetime import timedelta

from webapp.store.clock import now
from webapp.store.models import Checkpoint, Dataset, Run, RunNote, RunState, RunTag, Study


def made_runs(session, number):
    """Of two checkpoints, with and without dataset, study, tags and result; many have the same figures."""
    checkpoints = [
        Checkpoint(name=name, filename=name, size_bytes=1, digest="0" * 64) for name in ("Zebra.pt", "ape.pt")
    ]
    dataset = Dataset(name="digits", filename="digits", size_bytes=1, digest="0" * 64)
    session.add_all([*checkpoints, dataset])
    session.flush()
    study = Study(name="sweep", kind="race", checkpoint_id=checkpoints[0].id, question={})
    session.add(study)
    session.flush()
    runs = []
    for n in range(number):
        technique = "gptq" if n % 2 else "magnitude_pruning"
        settings = {"bits": n % 3 + 2, "granularity": ("group", "channel")[n % 4 > 1]} if n % 2 else {}
        run = Run(
            name=f"run {n % 7}",
            checkpoint_id=checkpoints[n % 2].id,
            dataset_id=dataset.id if n % 3 else None,
            study_id=study.id if n % 4 == 0 else None,
            recipe={"version": 2, "steps": [{"technique": technique, "settings": settings}]},
            state=RunState.FAILED if n % 5 == 0 else RunState.SUCCEEDED,
            created_at=now() - timedelta(minutes=n // 2),
            starred=n % 6 == 0,
            tag_rows=[RunTag(tag=tag) for tag, nth in (("keep", 4), ("100%", 9)) if n % nth == 0],
            note=RunNote(text="Odd one out_") if n == 3 else None,
        )
        if n % 5:
            metrics = {"accuracy": {"value": 0.9 + n % 4 / 100}} if n % 3 else {}
            before = {"accuracy": {"value": 0.97}}
            run.baseline, run.result = ({"size_bytes": 1000, "metrics": m} for m in (before, metrics))
            run.result = run.result | {"size_bytes": 100 * (n % 6 + 1)}
            run.receipt = {"verdict": {"verdict": "worse" if n % 2 else "better"}}
            run.started_at, run.finished_at = run.created_at, run.created_at + timedelta(seconds=n % 5)
        runs.append(run)
    session.add_all(runs)
    session.commit()
    return runs
