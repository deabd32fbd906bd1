"""From a field to a study, its knee, the samples that it loses, a run that goes on, and the comparison of both.

By the keyboard alone, in a wide window and in a narrow and dark one.
"""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import drawn, take_image
from tests.e2e.test_folders import assert_readable
from tests.patience import PATIENCE_SECONDS

WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


@pytest.fixture(params=[("wide", WIDE, "light"), ("narrow", NARROW, "dark")], ids=["wide", "narrow"])
def look(request):
    return request.param


@pytest.fixture
def visitor(browser, served, look) -> Page:
    _, size, scheme = look
    context = browser.new_context(base_url=served.url, viewport=size, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_SECONDS * 1000)
    yield page
    context.close()


def press(place: Locator, key: str = "Enter") -> None:
    """What somebody without a mouse does, once the script of the page is there."""
    place.page.wait_for_load_state("networkidle")
    place.focus()
    place.page.keyboard.press(key)


def seen(page: Page, name: str, look) -> None:
    """The page is readable in both widths, and stays as it was."""
    drawn(page)
    take_image(page, f"{name}-{look[2]}-{look[0]}")
    assert_readable(page)
    page.set_viewport_size(look[1])


def test_a_field_becomes_a_study_and_its_knee_goes_on(visitor, samples, api, look):
    page, tag = visitor, f"knee of six, {look[0]}"
    page.goto(f"/runs/new?checkpoint={samples['digits_cnn.safetensors']}")
    press(page.get_by_role("button", name="Prune half, 8-bit"))
    expect(page.locator("#steps h3")).to_have_text(["Magnitude pruning", "Weight quantization"])
    press(page.get_by_role("button", name="Several values of Sparsity"))
    expect(page.get_by_label("Sparsity: several values")).to_be_focused()
    page.keyboard.type("0.5..0.95 step 0.09")
    expect(page.locator("#prediction-after")).to_have_text("6 runs")
    expect(page.locator("#prediction-runs tbody tr")).to_have_count(6)
    press(page.get_by_role("checkbox", name=re.compile("^ONNX")), "Space")
    seen(page, "sweep-recipe", look)
    press(page.get_by_role("button", name="Start study of 6 runs"))
    page.wait_for_url(re.compile(r"/studies/\w{12}$"))

    expect(page.locator("#study-runs tbody tr")).to_have_count(6)
    expect(page.locator('[data-figure="figure-curve"] .scatterlayer .point').first).to_be_visible()  # it grows
    study = api.wait(
        f"/studies/{page.url.rpartition('/')[2]}", lambda study: study["state"] not in ("queued", "running")
    )
    assert study["state"] == "succeeded", study
    page.goto(study["url"])  # the page loads itself again when it is told
    expect(page.get_by_text("6 of 6 runs ended with a result.")).to_be_visible()
    seen(page, "sweep", look)
    if look[0] == "wide":
        drawn(page)
        take_image(page, "readme-sweep", full_page=False)
    press(page.get_by_role("button", name=re.compile("^Take the knee")))
    page.wait_for_url(re.compile(r"/runs/\w{12}$"))
    knee = study["sweep"]["knee"]
    assert page.url.endswith(knee)

    press(page.locator("summary", has_text="Add tags"))
    page.get_by_label("Tags, with commas between").focus()
    page.keyboard.type(tag.replace(",", ""))
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name=tag.replace(",", ""))).to_be_visible()
    page.goto("/runs")
    page.get_by_label("Search the runs").focus()
    page.keyboard.type(tag.replace(",", ""))
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("q=knee"))
    found = page.locator("tbody tr")
    expect(found).to_have_count(1)
    press(found.get_by_role("link", name=re.compile("Magnitude")))
    page.wait_for_url(re.compile(f"/runs/{knee}$"))

    press(page.get_by_role("link", name=re.compile("now wrong")))
    page.wait_for_url(re.compile("/samples"))
    expect(page.locator(".sample").first).to_be_visible()
    press(page.locator(".sample").first.get_by_role("link", name="Try this one"))
    expect(page.locator("#try-given")).to_have_count(1)
    press(page.get_by_role("button", name="Try", exact=True))
    for side in ("original", "result"):
        expect(page.locator(f"[data-side={side}] tr.best th")).to_be_visible()

    press(page.get_by_role("link", name="Continue from this run"))
    page.wait_for_url(re.compile("continue="))
    press(page.get_by_role("button", name=re.compile("^Cast to half precision")))
    expect(page.locator("[data-step] [data-number]")).to_have_text("3")
    expect(page.locator("#prediction-steps tbody tr")).to_have_count(3)
    press(page.get_by_role("button", name="Start run"))
    page.wait_for_url(re.compile(r"/runs/\w{12}$"))
    goes_on = api.finished(page.url.rsplit("/", 1)[1])
    assert (goes_on["state"], goes_on["continued_from_id"]) == ("succeeded", knee)
    assert {stage["state"] for stage in goes_on["stages"] if stage["name"] in ("baseline", "step-1", "step-2")} == {
        "reused"
    }

    page.goto(f"/compare?run={knee}&run={goes_on['id']}")
    expect(page.locator("#recipes")).to_contain_text("Cast to half precision")
    seen(page, "sweep-compare", look)
