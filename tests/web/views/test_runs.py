from tests.web.views.page import Page
from webapp.store.models import LogLine, Run, RunState, Stage, StageState


def started(session, run, **more):
    row = Run(name="Under way", checkpoint_id=run.checkpoint_id, recipe=run.recipe, **more)
    session.add(row)
    session.commit()
    return row


def test_a_finished_run_shows_its_result_and_where_to_go_on(client, run):
    page = Page(client.get(f"/runs/{run.id}").text)
    for shown in ("5.00 kB", "was 10.0 kB", "2.00 × smaller", "95.00 %", "50.0 %"):
        assert shown in page.text
    for address in (f"/runs/{run.id}/receipt", f"/compare?run={run.id}", f"/runs/new?fork={run.id}"):
        assert page.of("a", href=address), address
    assert page.of("a", href=f"/api/v1/runs/{run.id}/artifacts/model.safetensors")
    assert page.of("form", action=f"/runs/{run.id}/shares")


CURVES = {
    "Training": {"x": [1, 2, 3], "values": {"Loss (nats)": [2.5, 1.25, 1.0625]}},
    "Validation": {"x": [0, 3], "values": {"Loss (nats)": [2.75, 1.375]}},
}


def test_the_losses_of_a_training_are_drawn_and_tabled_while_it_goes_on_and_after(client, run, session):
    recipe = {"version": 1, "steps": [{"technique": "distillation", "settings": {}}]}
    live = Run(name="School", checkpoint_id=run.checkpoint_id, recipe=recipe, state=RunState.RUNNING)
    stage = Stage(position=0, name="step-1", title="Step 1: Distillation", key="k", state=StageState.RUNNING)
    live.stages.append(stage)
    session.add(live)
    session.commit()
    page = Page(client.get(f"/runs/{live.id}").text)
    assert page.of("div", data_curves=f"/runs/{live.id}/curves")
    assert not page.of("div", data_figure="figure-step-1-0")
    assert client.get(f"/runs/{live.id}/curves").text.strip() == ""
    stage.curves = CURVES
    session.commit()
    assert client.get(f"/api/v1/runs/{live.id}").get_json()["stages"][0]["curves"] == CURVES
    for address in (f"/runs/{live.id}/curves", f"/runs/{live.id}"):
        page = Page(client.get(address).text)
        assert page.of("div", data_figure="figure-step-1-0")
        for shown in ("Loss (nats)", "Step 1: Distillation", "4 steps", "1.062", "2.75", "Validation"):
            assert shown in page.text, shown
    live.state = RunState.FAILED
    session.commit()
    assert Page(client.get(f"/runs/{live.id}").text).of("div", data_figure="figure-step-1-0")


def test_a_run_that_trains_nothing_loads_no_chart(client, run):
    assert "plotly" not in client.get(f"/runs/{run.id}").text


def test_a_run_under_way_is_watched_and_can_be_cancelled(client, run, session):
    live = started(session, run, state=RunState.RUNNING, progress=0.43, message="Pruning layers.0", seconds_left=75)
    stage = Stage(run_id=live.id, position=0, name="step-1", title="Pruning", key="k", state=StageState.RUNNING)
    session.add_all([stage, LogLine(run_id=live.id, text="a line of the log")])
    session.commit()
    page = Page(client.get(f"/runs/{live.id}").text)
    for shown in ("43 %", "Pruning layers.0", "1 min 15 s left", "a line of the log"):
        assert shown in page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert page.of("section", data_run=f"/api/v1/runs/{live.id}")
    assert page.of("li", data_stage="step-1")
    assert page.of("form", action=f"/runs/{live.id}/cancel")
    answer = client.post(f"/runs/{live.id}/cancel", follow_redirects=True)
    cancelled = Page(answer.text)
    assert cancelled.of("span", id="run-state", data_state="cancelled")
    assert cancelled.of("form", action=f"/runs/{live.id}/retry")


def test_a_failed_run_says_why_and_can_be_retried(client, run, session):
    sentence = "The run needed more memory than the 8.00 GB that one run may have."
    failed = started(session, run, state=RunState.FAILED, error={"code": "out_of_memory", "message": sentence})
    page = Page(client.get(f"/runs/{failed.id}").text)
    assert sentence in page.text
    assert page.of("form", action=f"/runs/{failed.id}/retry")
    again = Page(client.post(f"/runs/{failed.id}/retry", follow_redirects=True).text)
    assert again.of("span", id="run-state", data_state="queued")


def test_a_run_that_has_ended_cannot_be_cancelled(client, run):
    answer = client.post(f"/runs/{run.id}/cancel")
    assert answer.status_code == 409
    assert "nothing to cancel" in Page(answer.text).text


def test_a_run_is_deleted(client, run):
    answer = client.post(f"/runs/{run.id}/delete", follow_redirects=True)
    assert "was deleted" in Page(answer.text).text
    assert client.get(f"/runs/{run.id}").status_code == 404


def test_a_run_is_renamed_noted_tagged_and_starred(client, run):
    for sent in ({"name": "The small one"}, {"notes": "**why**"}, {"tags": "paper, Baseline"}, {"starred": "1"}):
        assert client.post(f"/runs/{run.id}", data=sent).status_code == 302
    page = Page(client.get(f"/runs/{run.id}").text)
    assert page.of("h1", title="The small one")
    assert page.of("a", href="/runs?tag=baseline")
    assert page.of("button", aria_pressed="true")
    assert "<strong>why</strong>" in client.get(f"/runs/{run.id}").text
    assert client.post(f"/runs/{run.id}", data={"name": " "}).status_code == 422


def test_notes_of_a_run_run_nothing(client, run):
    client.patch(f"/api/v1/runs/{run.id}", json={"notes": "<script>alert(1)</script> [x](javascript:alert(2))"})
    page = client.get(f"/runs/{run.id}").text
    assert "<script>alert(1)" not in page
    assert 'href="javascript' not in page
