"""The runs of a comparison are read on both databases, without their receipts, and numbered where they are shared."""

import pytest
from sqlalchemy import event

from tests.actions.listed_runs import made_runs
from webapp.actions.compared_runs import MOST_RUNS, drawn, runs_of_studies
from webapp.actions.comparison import View, as_csv, compare
from webapp.actions.errors import NotFound, RequestInvalid
from webapp.store.models import Study


def swept(session, runs):
    """The study's runs as a sweep of what they are."""
    study = session.query(Study).one()
    values = sorted({run.recipe["steps"][0]["settings"].get("bits", 2) for run in runs})
    study.kind, study.question = (
        "sweep",
        {"axes": [{"path": "steps.0.settings.bits", "title": "Bits", "values": values}]},
    )
    for run in runs:
        run.study_id = study.id if "bits" in run.recipe["steps"][0]["settings"] else None
    session.commit()
    return study


def test_what_is_drawn_is_what_the_runs_have(session):
    runs = made_runs(session, 40)
    found = drawn(session, [run.id for run in runs])
    assert [run["id"] for run in found] == [run.id for run in runs]
    for run, own in zip(runs, found, strict=True):
        assert own["tags"] == sorted(run.tags)
        assert own["recipe"] == run.recipe
        assert (own["result"] is None) == (run.result is None)
        if run.result:
            assert own["result"]["size_bytes"] == run.result["size_bytes"]
            assert own["result"]["metrics"] == run.result["metrics"]
            assert own["seconds"] == (run.finished_at - run.started_at).total_seconds()
        if bits := run.recipe["steps"][0]["settings"].get("bits"):
            assert own["settings"]["setting.gptq.bits"] == own["settings"]["setting.any.bits"] == bits


def test_a_studys_runs_lie_on_a_line_along_what_it_varies(session):
    runs = made_runs(session, 24)
    study = swept(session, runs)
    ids = runs_of_studies(session, [study.id])
    found = drawn(session, ids)
    lines = [run["line"] for run in found if run["result"]]
    assert {line["key"] for line in lines} == {f"{study.id} gptq"}
    assert [line["at"] for line in lines] == [
        run["recipe"]["steps"][0]["settings"]["bits"] for run in found if run["result"]
    ]
    with pytest.raises(NotFound, match="There is no study nothing"):
        runs_of_studies(session, ["nothing"])


def test_shared_runs_are_numbered_and_have_no_id_anywhere(session):
    runs = made_runs(session, 12)
    study = swept(session, runs)
    told = str(drawn(session, [run.id for run in runs], anonymous=True, with_tags=False))
    ids = {study.id} | {id_ for run in runs for id_ in (run.id, run.checkpoint_id, run.dataset_id) if id_}
    assert not [id_ for id_ in ids if id_ in told]
    assert "keep" not in told


def test_of_many_runs_few_receipts_are_read(session):
    runs = made_runs(session, 120)
    ids = [run.id for run in runs]
    session.expire_all()
    asked = []
    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", lambda c, k, statement, *_: asked.append(statement))
    found = drawn(session, ids)
    assert len(asked) < 20  # not a query for each run
    whole = [statement for statement in asked if "runs.receipt" in statement]
    assert len(whole) == 1  # of the few whose layers stand side by side
    text = as_csv(compare(View(tuple(ids)), found))
    assert len(text.splitlines()) == 121


def test_too_many_and_those_that_are_gone_are_named(session):
    with pytest.raises(RequestInvalid, match=f"At most {MOST_RUNS} runs"):
        drawn(session, [f"{n:012d}" for n in range(MOST_RUNS + 1)])
    with pytest.raises(NotFound, match="There is no run abc"):
        drawn(session, ["abc"])
