"""The figures say what the JSON says, whoever writes it, and those of rows that were there before are filled in."""

import math
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, insert, select

from webapp.store.database import MIGRATIONS, upgrade
from webapp.store.figures import figures_of
from webapp.store.models import Checkpoint, Run, RunFigure, RunState

RECIPE = {"version": 2, "steps": [{"technique": "gptq", "settings": {"bits": 4, "granularity": "group", "sym": True}}]}
BEGUN = datetime(2026, 1, 2, tzinfo=UTC)


def measured(size_bytes, **metrics):
    values = {name: {"value": value} for name, value in metrics.items()}
    return {"size_bytes": size_bytes, "sparsity": 0.5, "metrics": values, "latency_ms": {"p50": 2.5}}


def finished(**more):
    row = {
        "recipe": RECIPE,
        "baseline": measured(1000, accuracy=0.97, perplexity=20.0),
        "result": measured(250, accuracy=0.95, perplexity=None, kl=None),
        "receipt": {"verdict": {"verdict": "worse"}, "undelivered": [{}, {}]},
        "started_at": BEGUN,
        "finished_at": BEGUN + timedelta(seconds=90),
    }
    return row | more


def kept(session, run_id):
    rows = session.execute(select(RunFigure.name, RunFigure.value, RunFigure.text).where(RunFigure.run_id == run_id))
    return {name: (value, text) for name, value, text in rows}


def test_they_are_what_was_asked_and_measured():
    found = figures_of(SimpleNamespace(**finished()))
    assert found["setting.gptq.bits"] == (4.0, "")
    assert found["setting.gptq.granularity"] == (0.0, "group")
    assert found["setting.gptq.sym"] == (1.0, "on")
    assert (found["technique.gptq"], found["techniques"]) == ((1.0, ""), (0.0, "gptq"))
    assert (found["size_bytes"], found["times_smaller"]) == ((250.0, ""), (4.0, ""))
    assert (found["metric.accuracy"], found["quality"]) == ((0.95, ""), (0.95, "accuracy"))
    assert math.isclose(found["change.accuracy"][0], -0.02)
    assert (found["verdict"], found["formats_failed"], found["seconds"]) == ((0.0, "worse"), (2.0, ""), (90.0, ""))
    assert not {"metric.perplexity", "change.perplexity", "metric.kl"} & set(found)


def test_a_run_writes_them_with_itself(sessions):
    with sessions.begin() as session:
        checkpoint = Checkpoint(name="c", filename="c.pt", size_bytes=1, digest="0" * 64)
        run = Run(name="r", checkpoint=checkpoint, recipe=RECIPE)
        session.add(run)
    with sessions.begin() as session:
        assert set(kept(session, run.id)) == {
            "techniques",
            "technique.gptq",
            *(f"setting.gptq.{name}" for name in ("bits", "granularity", "sym")),
        }
        row = session.get(Run, run.id)
        for name, value in finished().items():
            setattr(row, name, value)
        row.state = RunState.SUCCEEDED
    with sessions.begin() as session:
        assert kept(session, run.id)["size_bytes"] == (250.0, "")
        session.delete(session.get(Run, run.id))
    with sessions() as session:
        assert kept(session, run.id) == {}


def test_runs_that_were_there_before_get_theirs(engine, sessions):
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0015")
        was = MetaData()
        was.reflect(connection, only=["checkpoints", "runs"])
        checkpoint = {"id": "c" * 12, "name": "c", "filename": "c", "size_bytes": 1, "digest": "0" * 64, "files": {}}
        checkpoint |= {"state": "ready", "created_at": BEGUN, "dequantize": False, "in_place": {}, "progress": 1.0}
        connection.execute(insert(was.tables["checkpoints"]), checkpoint | {"message": ""})
        row = finished(id="r" * 12, name="r", checkpoint_id="c" * 12, state="succeeded", created_at=BEGUN)
        row |= {"exports": [], "seed": 0, "attempt": 1, "progress": 1.0, "message": ""}
        connection.execute(insert(was.tables["runs"]), row)
    upgrade(engine)
    with sessions() as session:
        assert kept(session, "r" * 12) == figures_of(SimpleNamespace(**finished()))
        assert session.get(Run, "r" * 12).starred is False
        assert session.get(Run, "r" * 12).prompts == []
