"""A first visit: every page of an installation with nothing in it says what to do, and a tour of the sample does it."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.api_client import Api
from tests.e2e.conftest import NARROW, WIDE, drawn, take_image, visited
from tests.pare_process import Served, serving
from tests.patience import until

EMPTY = ("/", "/checkpoints", "/datasets", "/runs", "/runs/new", "/studies", "/compare", "/deployments")
FULL = ("/techniques", "/api", "/checkpoints/new", "/datasets/new")
RUN_TIMEOUT_MS = 240_000
REDRAWN_SECONDS = 20  # charts follow the window


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Served:
    """A Pare in which nothing is left: the samples were deleted."""
    with serving(tmp_path_factory.mktemp("fresh")) as pare:
        api = Api(pare.url)
        for kind in ("checkpoints", "datasets"):
            for row in api.get(f"/{kind}")["items"]:
                api.wait(f"/{kind}/{row['id']}", lambda row: row["state"] != "inspecting")
                api.send("DELETE", f"/{kind}/{row['id']}")
        yield pare


@pytest.fixture
def newcomer(browser, fresh, scheme) -> Page:
    with visited(browser, fresh.url, color_scheme=scheme, reduced_motion="reduce") as page:
        yield page


def looked_at(page: Page, name: str) -> None:
    """Wide and narrow: nothing is cut off, and axe finds nothing."""
    drawn(page)
    for width, size in (("narrow", NARROW), ("wide", WIDE)):
        page.set_viewport_size(size)
        fits = "document.scrollingElement.scrollWidth <= innerWidth"
        until(lambda: page.evaluate(fits), REDRAWN_SECONDS, lambda: f"{name} is wider than a {width} window")  # noqa: B023
        take_image(page, f"first-{name}-{width}")
        broken = Axe().run(page).response["violations"]
        assert not broken, (name, width, [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in broken])


def test_every_empty_page_offers_the_next_step(newcomer, scheme):
    for address in (*EMPTY, *FULL):
        newcomer.goto(address)
        if address in EMPTY:
            expect(newcomer.get_by_role("main").get_by_role("button", name="Use the sample")).to_have_count(1)
        looked_at(newcomer, f"empty{address.replace('/', '-')}-{scheme}")


def press(page: Page, name: str, role: str = "button") -> None:
    """Goes there with the keyboard alone, from wherever the focus is, and presses Enter."""
    place = page.get_by_role(role, name=name, exact=True).first
    expect(place).to_be_enabled()
    for _ in range(150):
        if place.evaluate("element => element === document.activeElement"):
            break
        page.keyboard.press("Tab")
    else:
        pytest.fail(f"{name} is not reached with Tab")
    page.keyboard.press("Enter")


def step(page: Page, number: int, title: str):
    """The panel of the tour, once it shows this step."""
    panel = page.get_by_role("region", name=f"Step {number} of 5 {title}")
    expect(panel).to_be_visible(timeout=RUN_TIMEOUT_MS)
    expect(panel.locator("[aria-current=step]")).to_have_text(title)
    return panel


@pytest.mark.slow
def test_the_tour_from_the_empty_page_to_a_file_by_keyboard_alone(newcomer, fresh, scheme):
    page, api = newcomer, Api(fresh.url)
    page.goto("/")
    press(page, "Take the tour")
    page.wait_for_url(re.compile(r"/checkpoints/\w+#tour$"))
    panel = step(page, 1, "Look at the sample")
    expect(panel.get_by_role("button", name="Next: say how small")).to_be_visible()
    expect(panel).to_be_focused()
    looked_at(page, f"tour-1-{scheme}")
    press(page, "Next: say how small")

    panel = step(page, 2, "Say how small")
    if (button := page.get_by_role("button", name="Profile it")).count():
        expect(panel).to_be_focused()
        assert button.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
        looked_at(page, f"tour-2-profile-{scheme}")
        press(page, "Show me where", "link")
        expect(button).to_be_focused()
        page.keyboard.press("Enter")
    expect(panel).to_contain_text("Choose a size with the slider", timeout=RUN_TIMEOUT_MS)
    looked_at(page, f"tour-2-{scheme}")

    # left here, and nowhere to be seen until it is resumed
    press(page, "Leave the tour")
    page.wait_for_url("/")
    page.goto("/runs")
    expect(page.get_by_role("region", name=re.compile("Step"))).to_have_count(0)
    page.goto("/")
    looked_at(page, f"tour-left-{scheme}")
    press(page, "Resume the tour at step 2")
    expect(step(page, 2, "Say how small")).to_be_focused()
    press(page, "Show me where", "link")
    expect(page.get_by_role("button", name="Run it and measure")).to_be_focused()
    page.keyboard.press("Enter")

    page.wait_for_url(re.compile(r"/studies/\w+$"))
    step(page, 3, "Watch it being made")
    take_image(page, f"first-tour-3-{scheme}")  # it changes while one looks
    panel = step(page, 4, "Read the receipt")  # the page follows by itself
    looked_at(page, f"tour-4-study-{scheme}")
    press(page, "Open the receipt", "link")
    page.wait_for_url(re.compile(r"/receipt#tour$"))
    expect(step(page, 4, "Read the receipt")).to_be_focused()
    looked_at(page, f"tour-4-{scheme}")
    press(page, "Next: take it with you")
    page.wait_for_url(re.compile(r"/runs/\w+#tour$"))
    step(page, 5, "Take it with you")
    looked_at(page, f"tour-5-{scheme}")
    press(page, "Show me where", "link")
    with page.expect_download() as downloading:
        press(page, "Download model.safetensors", "link")
    run = api.get(re.search(r"/runs/\w+", page.url)[0])
    assert downloading.value.path().stat().st_size == run["result"]["size_bytes"] < run["baseline"]["size_bytes"]
    press(page, "Finish the tour")
    page.wait_for_url("/")
    expect(page.get_by_role("region", name=re.compile("Step"))).to_have_count(0)
    expect(page.get_by_role("button", name="Take the tour")).to_be_visible()
