"""The browser says when a run or a study ends, where somebody has asked it to, and nobody is asked before a press."""

import contextlib
import re

import pytest
import torch
from playwright.sync_api import Error, expect
from safetensors.torch import save_file

from tests.e2e.conftest import WIDE, take_image
from tests.e2e.test_folders import assert_readable
from tests.patience import PATIENCE_SECONDS, until

LOW_RANK = {"version": 2, "steps": [{"technique": "low_rank", "settings": {"by": "energy", "energy": 0.5}}]}
WATCHED = """
window.told = [];
window.asked = 0;
const Real = Notification;
window.Notification = class {
  static get permission() { return Real.permission; }
  static requestPermission() { window.asked += 1; return Real.requestPermission(); }
  constructor(title, options) {
    const told = JSON.parse(sessionStorage.getItem("told") ?? "[]");
    sessionStorage.setItem("told", JSON.stringify([...told, [title, options]]));
  }
  addEventListener() {}
};
"""
BEHIND = """
window.behind = false;
Object.defineProperty(Document.prototype, "hidden", { get: () => window.behind });
"""
NAME = "Tell me when it ends"


@pytest.fixture(scope="module")
def slow_checkpoint(api, tmp_path_factory) -> str:
    """Three matrices whose singular values take a while."""
    path = tmp_path_factory.mktemp("slow") / "to_notify.safetensors"
    generator = torch.Generator().manual_seed(1)
    save_file({f"layers.{i}.weight": torch.randn(2800, 2800, generator=generator) / 50 for i in range(3)}, path)
    return api.upload("checkpoints", path)["id"]


@pytest.fixture
def under_way(api, slow_checkpoint):
    """A run that does not end before it is cancelled."""
    run_id = api.run(slow_checkpoint, LOW_RANK, name="A name <b>of</b> its own")["id"]
    yield run_id
    if api.get(f"/runs/{run_id}")["state"] in ("queued", "running"):
        api.post(f"/runs/{run_id}/cancel")


@pytest.fixture
def allowing(browser, served):
    """Opens pages of a visitor who allows notifications, or refuses them; what would be shown is written down."""
    contexts = []

    def open_(allowed: bool):
        context = browser.new_context(base_url=served.url, viewport=WIDE)
        contexts.append(context)
        if allowed:
            context.grant_permissions(["notifications"], origin=served.url)
        context.add_init_script(WATCHED + BEHIND)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        return page

    yield open_
    for context in contexts:
        context.close()


def told(page):
    """What notifications were shown; nothing while the page loads itself again."""
    with contextlib.suppress(Error):
        page.wait_for_load_state("domcontentloaded")
        return page.evaluate("JSON.parse(sessionStorage.getItem('told') ?? '[]')")


def test_a_page_that_is_seen_says_once_that_its_run_has_ended(allowing, api, under_way):
    page = allowing(True)
    page.goto(f"/runs/{under_way}")
    button = page.get_by_role("button", name=NAME)
    expect(button).to_be_visible()
    assert page.evaluate("window.asked") == 0
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_text("Keep this page open")).to_be_visible()
    page.reload()
    expect(button).to_have_attribute("aria-pressed", "true")
    assert told(page) == []
    api.post(f"/runs/{under_way}/cancel")
    expect(page.locator("#run-state[data-state=cancelled]")).to_be_visible()
    until(lambda: told(page))
    page.reload()
    page.wait_for_load_state("networkidle")
    ((title, options),) = told(page)
    assert title == "A name <b>of</b> its own was cancelled"
    assert under_way in options["tag"]


def test_a_page_behind_another_one_says_it_and_its_title_too(allowing, api, under_way):
    page = allowing(True)
    page.goto(f"/runs/{under_way}")
    page.get_by_role("button", name=NAME).click()
    page.evaluate("window.behind = true; document.dispatchEvent(new Event('visibilitychange'))")
    expect(page).to_have_title(re.compile(r"^\d+ % · A name"))
    api.post(f"/runs/{under_way}/cancel")
    until(lambda: told(page))
    expect(page).to_have_title(re.compile("^Cancelled: A name"))
    assert len(told(page)) == 1
    expect(page.locator("#run-state")).not_to_have_attribute("data-state", "cancelled")  # it is not seen
    page.evaluate("window.behind = false; document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#run-state[data-state=cancelled]")).to_be_visible()
    assert len(told(page)) == 1


def test_who_has_not_asked_or_asks_no_more_is_told_nothing(allowing, api, under_way):
    page = allowing(True)
    page.goto(f"/runs/{under_way}")
    button = page.get_by_role("button", name=NAME)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    api.post(f"/runs/{under_way}/cancel")
    expect(page.locator("#run-state[data-state=cancelled]")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert told(page) == []


def test_where_it_is_refused_a_sentence_says_so_and_the_button_stays_as_it_is(allowing, under_way):
    page = allowing(False)
    page.goto(f"/runs/{under_way}")
    expect(page.locator("[data-stages]")).to_be_visible()  # until then the page loads itself again
    button = page.get_by_role("button", name=NAME)
    button.click()
    expect(page.get_by_text("does not allow notifications")).to_be_visible()
    expect(button).to_have_attribute("aria-pressed", "false")
    take_image(page, "notify-refused", full_page=False)
    assert_readable(page)


def test_the_end_of_a_study_is_said_with_its_answer(allowing, api, samples):
    sparsities = {"technique": "magnitude_pruning", "settings": {"sparsity": [0.3, 0.4]}}
    sweep = {"checkpoint_id": samples["digits_cnn.safetensors"], "recipe": {"version": 2, "steps": [sparsities]}}
    study = api.post("/studies", {"name": "To be told of", "sweep": sweep})["id"]
    page = allowing(True)
    page.goto(f"/studies/{study}")
    button = page.get_by_role("button", name=NAME)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#study-state [data-state=succeeded]")).to_be_visible()
    until(lambda: told(page))
    ((title, options),) = told(page)
    assert title == "To be told of has succeeded"
    assert options["body"] == "2 of 2 runs ended with a result."
