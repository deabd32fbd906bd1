"""Prompts of one's own, in a browser: asked of a language model and its result, read, and deleted again."""

import re
import zipfile

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.e2e.conftest import NARROW, WIDE, drawn, take_image
from tests.zoo import build_tiny, write_tokenizer

ANSWERED_MS = 180_000


@pytest.fixture(scope="module")
def writer(api, tmp_path_factory) -> str:
    """A run of a small language model that has succeeded."""
    folder = tmp_path_factory.mktemp("writer")
    build_tiny("LlamaForCausalLM", "llama").save_pretrained(folder)
    write_tokenizer(folder)
    archive = tmp_path_factory.mktemp("archive") / "writer.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.iterdir():
            file.write(path, path.name)
    checkpoint = api.upload("checkpoints", archive)
    assert checkpoint["state"] == "ready", checkpoint["reason"]
    recipe = {"version": 2, "steps": [{"technique": "cast", "settings": {"dtype": "float16"}}]}
    run = api.finished(api.run(checkpoint["id"], recipe, None, "A writer in half")["id"])
    assert run["state"] == "succeeded", run["error"]
    return run["id"]


def test_prompts_are_asked_read_and_deleted(page: Page, api, writer):
    page.goto(f"/runs/{writer}")
    page.get_by_role("link", name="Ask both").click()
    page.get_by_label("Prompt 1").fill("the cat")
    page.get_by_label("Prompt 2").fill("a dog")
    page.get_by_label("Tokens of each answer").fill("6")
    page.get_by_role("button", name="Ask", exact=True).click()
    asked = page.get_by_role("region", name="2 prompts")
    expect(asked).to_contain_text(re.compile("They part at|tokens are the same"), timeout=ANSWERED_MS)
    expect(asked.get_by_role("heading", name="Original")).to_have_count(2)
    (told,) = api.get(f"/runs/{writer}/prompts")["items"]
    assert [answer["prompt"] for answer in told["answers"]] == ["the cat", "a dog"]

    # what is refused keeps what was written, and says why where it is written
    page.get_by_label("Prompt 1").fill("a good dog")
    page.get_by_label("Tokens of each answer").evaluate("field => field.form.noValidate = true")
    page.get_by_label("Tokens of each answer").fill("5000")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_label("Tokens of each answer")).to_be_focused()
    expect(page.get_by_role("alert")).to_contain_text("for 1 to 128 tokens each")
    expect(page.get_by_label("Prompt 1")).to_have_value("a good dog")
    expect(page.get_by_label("Tokens of each answer")).to_have_value("5000")

    page.goto(f"/runs/{writer}/prompts")
    page.once("dialog", lambda dialog: dialog.accept())
    delete = page.get_by_role("button", name="Delete the set that begins with the cat")
    expect(delete).to_be_visible()
    delete.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("The prompts and their answers were deleted.")).to_be_visible()
    expect(asked).to_have_count(0)
    assert api.get(f"/runs/{writer}/prompts")["items"] == []


def test_the_page_is_legible_everywhere(visitor, scheme, api, writer):
    api.post(f"/runs/{writer}/prompts", {"prompts": ["the cat sat on", "a " * 30], "max_tokens": 8})
    assert api.finished(writer)["state"] == "succeeded"
    for width, size in (("wide", WIDE), ("narrow", NARROW)):
        visitor.set_viewport_size(size)
        visitor.goto(f"/runs/{writer}/prompts")
        drawn(visitor)
        take_image(visitor, f"prompts-{scheme}-{width}")
        assert visitor.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0
        assert not Axe().run(visitor).response["violations"]
