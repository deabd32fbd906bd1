"""A form that is refused comes back with what was typed and the sentence at its field; other errors lead back."""

import re

import pytest

from tests.web.views.page import Page
from tests.web.views.seeded import seed_checkpoint
from tests.web.views.seeded_studies import seed_profile, seed_study
from webapp.actions.run_notes import RunEdit, edit_run
from webapp.store.models import Run, RunNote, RunState


def field(answer, name: str, tag: str = "input") -> dict[str, str]:
    """The field that was refused, once the answer is seen to say so at it and nowhere else."""
    page = Page(answer.text)
    marked = [own for _, own in page.elements if own.get("aria-invalid") == "true"]
    assert [own.get("name") for own in marked] == [name]
    (own,) = [own for own in page.of(tag, name=name) if own.get("aria-invalid") == "true"]
    (sentence,) = page.of("p", class_="field-error", role="alert")
    assert sentence["id"] in own["aria-describedby"].split()
    assert "autofocus" in own
    return own


def sentence_of(answer) -> str:
    return re.search(r'<p class="field-error" id="[^"]+-refused" role="alert">(.*?)</p>', answer.text)[1]


def test_a_name_and_tags_that_are_refused_are_still_there(client, session, run):
    name = run.name
    answer = client.post(f"/runs/{run.id}", data={"name": "x" * 201})
    assert answer.status_code == 422
    assert field(answer, "name")["value"] == "x" * 201
    assert "The name has 201 characters; at most 200 may be." in sentence_of(answer)
    answer = client.post(f"/runs/{run.id}", data={"tags": f"good, {'long' * 20}"})
    assert field(answer, "tags")["value"] == f"good, {'long' * 20}"
    session.expire_all()
    assert (session.get(Run, run.id).name, session.get(Run, run.id).tags) == (name, [])


def test_of_one_form_with_two_things_nothing_is_kept_where_one_is_refused(client, session, run):
    answer = client.post(f"/runs/{run.id}", data={"name": "Another", "tags": "t" * 41})
    assert answer.status_code == 422
    assert "<h1" in answer.text
    assert f">{run.name}</h1>" in answer.text
    session.expire_all()
    assert session.get(Run, run.id).name != "Another"


def test_notes_with_line_ends_of_any_kind_can_be_edited_on_the_page(client, session, run):
    session.add(RunNote(run_id=run.id, text="old\rkind"))
    session.commit()
    for stored in (None, "a\r\nb", "a\rb", "a\n\rb"):
        if stored is not None:
            assert client.patch(f"/api/v1/runs/{run.id}", json={"notes": stored}).status_code == 200
        shown = Page(client.get(f"/runs/{run.id}").text).of("input", name="notes_before")[0]["value"]
        sent = shown.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")  # as a browser does
        answer = client.post(f"/runs/{run.id}", data={"notes": f"{sent}\r\nmore", "notes_before": sent})
        assert answer.status_code == 302, stored


def test_notes_that_were_changed_meanwhile_are_not_overwritten_unseen(client, session, run):
    def notes() -> str:
        session.expire_all()
        return session.get(Run, run.id).notes

    def before(answer) -> str:
        return Page(answer.text).of("input", name="notes_before")[0]["value"]

    opened = before(client.get(f"/runs/{run.id}"))
    assert client.post(f"/runs/{run.id}", data={"notes": "first\r\ntab", "notes_before": opened}).status_code == 302
    answer = client.post(f"/runs/{run.id}", data={"notes": "second tab", "notes_before": opened})
    assert answer.status_code == 409
    assert "changed meanwhile" in sentence_of(answer)
    field(answer, "notes", "textarea")
    assert re.search(r"<textarea[^>]*>\nsecond tab</textarea>", answer.text)
    assert "first\ntab" in answer.text
    assert notes() == before(answer) == "first\ntab"
    again = {"notes": "second tab", "notes_before": before(answer).replace("\n", "\r\n")}  # as a browser sends it
    assert client.post(f"/runs/{run.id}", data=again).status_code == 302
    assert notes() == "second tab"
    twice = client.post(f"/runs/{run.id}", data=again)
    assert twice.status_code == 302  # what stands there already is no conflict


def test_a_program_says_which_notes_it_read(client, run, session):
    edit_run(session, session.get(Run, run.id), RunEdit(notes="now"))
    refused = client.patch(f"/api/v1/runs/{run.id}", json={"notes": "mine", "notes_before": ""})
    assert (refused.status_code, refused.json["error"]["field"]) == (409, "notes")
    assert client.patch(f"/api/v1/runs/{run.id}", json={"notes": "mine", "notes_before": "now"}).json["notes"] == "mine"


def test_a_version_that_would_make_a_circle_is_said_at_the_choice(client, session):
    first, second = seed_checkpoint(session, "first.pt"), seed_checkpoint(session, "second.pt")
    client.post(f"/checkpoints/{second.id}/version", data={"newer_than_id": first.id})
    answer = client.post(f"/checkpoints/{first.id}/version", data={"newer_than_id": second.id})
    assert answer.status_code == 409
    field(answer, "newer_than_id", "select")
    assert "second.pt is a newer version of first.pt already" in sentence_of(answer)
    assert Page(answer.text).of("option", value=second.id, selected="")
    gone = client.post(f"/checkpoints/{first.id}/version", data={"newer_than_id": "222222222222"})
    assert gone.status_code == 404
    field(gone, "newer_than_id", "select")


def test_what_cannot_be_applied_stays_ticked(client, session, seed, run):
    newer = seed_checkpoint(session, "newer.pt")
    client.post(f"/checkpoints/{newer.id}/version", data={"newer_than_id": run.checkpoint_id})
    answer = client.post(f"/checkpoints/{newer.id}/apply", data={"run": [run.id, "222222222222"]})
    assert answer.status_code == 404
    assert "There is no run 222222222222" in sentence_of(answer)
    assert "checked" in Page(answer.text).of("input", name="run", value=run.id)[0]
    nothing = client.post(f"/checkpoints/{newer.id}/apply")
    assert nothing.status_code == 400
    assert "checked" not in Page(nothing.text).of("input", name="run", value=run.id)[0]


def test_a_best_run_and_a_fork_that_cannot_be_say_so_on_the_run_s_page(client, session, run):
    run.state = RunState.FAILED
    session.commit()
    answer = client.post(f"/runs/{run.id}/best", data={"best": "1"})
    assert answer.status_code == 409
    assert "the best so far has succeeded" in sentence_of(answer)
    assert f'<h1 class="clamp" title="{run.name}">' in answer.text


def test_tags_for_many_runs_come_back_with_what_was_ticked(client, run, seed):
    other = seed(name="Other")
    answer = client.post("/runs/actions?q=o", data={"action": "tag", "tags": "t" * 41, "run": [other.id]})
    assert answer.status_code == 422
    assert field(answer, "tags")["value"] == "t" * 41
    page = Page(answer.text)
    assert "checked" in page.of("input", name="run", value=other.id)[0]
    assert all("checked" not in own for own in page.of("input", name="run", value=run.id))


def test_a_study_s_form_says_it_at_the_field(client, session):
    profile = seed_profile(session)
    form = {"profile": profile.id, "tolerance": "0.2", "tolerance_in": "loss", "most_runs": "8", "most_minutes": "10"}
    for name, typed in (("tolerance", "much"), ("most_runs", "99"), ("most_minutes", "-1")):
        answer = client.post("/studies", data=form | {name: typed})
        assert answer.status_code == 400
        assert field(answer, name)["value"] == typed
    study = seed_study(session, "front")
    answer = client.post(f"/studies/{study.id}/extend", data={"sizes": "small", "unit": "MB"})
    assert field(answer, "sizes")["value"] == "small"
    assert Page(answer.text).of("details", id="extend", open="")


@pytest.mark.parametrize(
    ("address", "thing", "label"),
    [
        ("/runs/{run}/cancel", "/runs/{run}", "Back to the run"),
        ("/runs/{run}/retry", "/runs/{run}", "Back to the run"),
        ("/studies/{study}/cancel", "/studies/{study}", "Back to the study"),
        ("/studies/{study}/retry", "/studies/{study}", "Back to the study"),
        ("/studies/{study}/take", "/studies/{study}", "Back to the study"),
        ("/checkpoints/{checkpoint}/delete", "/checkpoints/{checkpoint}", "Back to the checkpoint"),
    ],
)
def test_what_is_not_possible_right_now_leads_back_to_the_thing(client, session, run, address, thing, label):
    study = seed_study(session)
    known = {"run": run.id, "study": study.id, "checkpoint": run.checkpoint_id}
    answer = client.post(address.format(**known), data={"run": study.runs[0].id if "take" not in address else ""})
    assert answer.status_code in (404, 409)
    links = Page(answer.text).of("a", href=thing.format(**known), class_="btn btn-primary")
    if answer.status_code == 409:
        assert links
        assert label in answer.text
        assert client.get(links[0]["href"]).status_code == 200


def test_the_way_back_keeps_the_view(client, run):
    view = f"/runs?q=o&sort=name&from=x&run={run.id}"
    referring = {"Referer": f"http://localhost{view}"}
    answer = client.post("/runs/actions", data={"action": "explode"}, headers=referring)
    assert Page(answer.text).of("a", href=view, class_="btn btn-primary")
    elsewhere = client.post("/runs/actions", data={"action": "explode"}, headers={"Referer": f"http://else{view}"})
    assert Page(elsewhere.text).of("a", href="/runs", class_="btn btn-primary")


def test_a_page_that_is_not_there_leads_home(client):
    answer = client.post("/runs/222222222222/cancel")
    assert answer.status_code == 404
    assert Page(answer.text).of("a", href="/", class_="btn btn-primary")
    assert "Back to" not in answer.text


def test_a_form_about_what_was_just_deleted_is_a_page_of_its_own(client, session, files, tmp_path, run, monkeypatch):
    """The row goes between its being read and its being locked."""
    monkeypatch.setattr("webapp.actions.run_notes.locked", lambda session, row: None)
    answer = client.post(f"/runs/{run.id}", data={"name": "x"})
    assert answer.status_code == 404
    assert "just been deleted" in answer.text


def test_a_view_that_there_is_not_leads_to_the_page_without_it(client, session):
    study = seed_study(session, "front")
    answer = client.get(f"/studies/{study.id}?metric=zzz")
    assert answer.status_code == 400
    assert Page(answer.text).of("a", href=f"/studies/{study.id}", class_="btn btn-primary")
    assert "Back to the study" in answer.text
