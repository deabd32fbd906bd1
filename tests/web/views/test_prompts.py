"""Prompts of one's own, by page and API: what is asked, what is refused, and where both answers part."""

import pytest

from tests.web.views.api_errors import error_of
from tests.web.views.page import Page
from webapp.engine.run.stages.job import PromptSet
from webapp.engine.run.stages.prompts import set_name
from webapp.store.models import Run, Stage, StageState

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def writer(session, run):
    """A run of a language model."""
    spec = {
        "family": "transformers",
        "title": "LlamaForCausalLM",
        "task": "causal-lm",
        "config": {"model_type": "llama"},
        "inputs": {"vocab": 40, "tokens": 64},
    }
    run.checkpoint.facts = {**run.checkpoint.facts, "architecture": spec}
    session.commit()
    return run


@pytest.fixture
def answered(session, writer):
    """Two sets: one that is answered, and one that failed."""
    sets = [PromptSet(texts=(text,), max_tokens=4) for text in ("the cat", HOSTILE)]
    answers = [
        {
            "prompt": "the cat",
            "original": {"tokens": [" sat", " on", " a"], "ended": "length"},
            "result": {"tokens": [" sat", " off"], "ended": "stop"},
            "same": 1,
        }
    ]
    writer.prompts = [given.model_dump(mode="json") for given in sets]
    told = {"title": "Answer 1 prompt", "key": "k"}
    why = {"code": "out_of_memory", "message": "Out of memory."}
    done, failed = (f"prompts-{set_name(given)}" for given in sets)
    writer.stages += [
        Stage(name=done, position=8, state=StageState.SUCCEEDED, facts={"answers": answers}, **told),
        Stage(
            name=failed,
            position=9,
            state=StageState.FAILED,
            error=why,
            **told,
        ),
    ]
    session.commit()
    return writer


def test_prompts_are_queued_and_kept_with_the_run(client, session, writer):
    page = Page(client.get(f"/runs/{writer.id}").text)
    assert page.of("a", href=f"/runs/{writer.id}/prompts")
    text = "def f(n):\r\n    return"
    answer = client.post(f"/runs/{writer.id}/prompts", data={"prompt": [text, " ", ""], "max_tokens": "16"})
    assert answer.status_code == 302
    session.expire_all()
    run = session.get(Run, writer.id)
    assert run.prompts == [{"texts": ["def f(n):\n    return"], "max_tokens": 16}]
    assert (run.state, run.attempt) == ("queued", 2)
    assert "being answered" in Page(client.get(f"/runs/{writer.id}/prompts").text).text
    refused = client.post(f"/runs/{writer.id}/prompts", data={"prompt": ["more"], "max_tokens": "16"})
    assert (refused.status_code, "ask again when it is done" in refused.text) == (409, True)


def test_where_both_part_is_marked_and_what_failed_says_why(client, answered):
    text = client.get(f"/runs/{answered.id}/prompts").text
    assert "<mark> on a</mark>" in text
    assert "<mark> off</mark>" in text
    assert "The first 1 of 3 tokens are the same." in Page(text).text
    assert "They could not be answered. Out of memory." in Page(text).text
    assert HOSTILE not in text
    newest, first = client.get(f"/api/v1/runs/{answered.id}/prompts").json["items"]
    assert (newest["stage"]["state"], newest["answers"]) == ("failed", [])
    assert first["answers"][0]["same"] == 1
    assert first["answers"][0]["result"] == {"tokens": [" sat", " off"], "ended": "stop"}


def test_a_shared_link_has_no_prompt(client, answered):
    token = client.post(f"/api/v1/runs/{answered.id}/shares").json["token"]
    for path in ("", "/receipt", "/receipt.json"):
        assert "the cat" not in client.get(f"/shared/{token}{path}").text


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"prompts": []}, 422, "at least 1"),
        ({"prompts": ["a"] * 9}, 422, "at most 8"),
        ({"prompts": [" "]}, 422, "A prompt is empty"),
        ({"prompts": ["a" * 5000]}, 422, "at most 4,000"),
        ({"prompts": ["a"], "max_tokens": 1000}, 422, "less than or equal to 128"),
    ],
)
def test_limits_are_told(client, writer, body, status, said):
    assert said in error_of(client.post(f"/api/v1/runs/{writer.id}/prompts", json=body), status)["message"]


def test_the_form_says_what_is_missing_and_keeps_what_was_written(client, writer):
    nothing = client.post(f"/runs/{writer.id}/prompts", data={"prompt": ["", " "], "max_tokens": "16"})
    assert (nothing.status_code, "Write a prompt" in nothing.text) == (422, True)
    many = client.post(f"/runs/{writer.id}/prompts", data={"prompt": ["the cat"], "max_tokens": "x"})
    assert (many.status_code, "for 1 to 128 tokens" in many.text, "the cat</textarea>" in many.text) == (
        422,
        True,
        True,
    )


def test_a_model_that_writes_no_text_says_so(client, run):
    assert "writes no text" in Page(client.get(f"/runs/{run.id}/prompts").text).text
    assert "prompts" not in client.get(f"/runs/{run.id}").text
    error_of(client.post(f"/api/v1/runs/{run.id}/prompts", json={"prompts": ["a"]}), 409)


def test_a_run_keeps_a_bounded_number_of_sets(client, session, writer):
    writer.prompts = [{"texts": [str(n)], "max_tokens": 4} for n in range(25)]
    session.commit()
    refused = client.post(f"/api/v1/runs/{writer.id}/prompts", json={"prompts": ["one more"]})
    assert "keeps 25 sets" in error_of(refused, 409)["message"]


def test_a_set_of_prompts_is_deleted_with_its_answers(client, session, answered):
    first = set_name(PromptSet(texts=("the cat",), max_tokens=4))
    page = Page(client.get(f"/runs/{answered.id}/prompts").text)
    assert page.of("form", action=f"/runs/{answered.id}/prompts/{first}/delete", method="post")
    assert client.post(f"/runs/{answered.id}/prompts/{first}/delete").location == f"/runs/{answered.id}/prompts"
    text = Page(client.get(f"/runs/{answered.id}/prompts").text).text
    assert "the cat" not in text
    assert "They could not be answered." in text
    session.expire_all()
    names = [stage.name for stage in session.get(Run, answered.id).stages]
    assert f"prompts-{first}" not in names
    gone = client.delete(f"/api/v1/runs/{answered.id}/prompts/{first}")
    assert "has no set of prompts" in error_of(gone, 404)["message"]
    (left,) = client.get(f"/api/v1/runs/{answered.id}/prompts").json["items"]
    assert client.delete(f"/api/v1/runs/{answered.id}/prompts/{left['name']}").status_code == 204
    assert client.get(f"/api/v1/runs/{answered.id}/prompts").json["items"] == []
    assert "1 asked" not in client.get(f"/runs/{answered.id}").text


def test_prompts_that_are_being_answered_stay(client, session, writer):
    client.post(f"/runs/{writer.id}/prompts", data={"prompt": ["the cat"], "max_tokens": "16"})
    (asked,) = client.get(f"/api/v1/runs/{writer.id}/prompts").json["items"]
    refused = client.delete(f"/api/v1/runs/{writer.id}/prompts/{asked['name']}")
    assert "delete its prompts when it is done" in error_of(refused, 409)["message"]
    assert client.post(f"/runs/{writer.id}/prompts/{asked['name']}/delete").status_code == 409
    page = Page(client.get(f"/runs/{writer.id}/prompts").text)
    assert not page.of("form", action=f"/runs/{writer.id}/prompts/{asked['name']}/delete")


def chat_template(session, files, tmp_path, writer, content):
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(content, encoding="utf8")
    row = {"digest": files.put(settings), "size_bytes": settings.stat().st_size}
    writer.checkpoint.files = {**writer.checkpoint.files, "tokenizer_config.json": row}
    session.commit()


def test_a_chat_is_offered_where_the_model_has_a_template(client, session, files, tmp_path, writer):
    address, body = f"/api/v1/runs/{writer.id}/prompts", {"prompts": ["Hello"], "chat": True}
    for content in ("", "[1]", "{}", '{"chat_template": null}', "no JSON"):
        chat_template(session, files, tmp_path, writer, content)
        assert "no chat template" in error_of(client.post(address, json=body), 422)["message"]
        assert not Page(client.get(f"/runs/{writer.id}/prompts").text).of("input", name="chat")
    chat_template(session, files, tmp_path, writer, '{"chat_template": "{{ messages }}"}')
    (box,) = Page(client.get(f"/runs/{writer.id}/prompts").text).of("input", name="chat")
    assert "checked" in box
    assert client.post(address, json=body).status_code == 202
    session.expire_all()
    assert writer.prompts == [{"texts": ["Hello"], "max_tokens": 48, "chat": True}]
