"""A real Chromium and a real Pare. Where Chromium is missing the tests are skipped, but never on CI."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Locator, Page, Response, expect, sync_playwright

from tests.api_client import Api
from tests.pare_process import Served, serving
from tests.patience import PATIENCE_SECONDS, until
from webapp import samples as shipped

SCREENSHOTS = os.environ.get("PARE_SCREENSHOTS")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
]
LEAVING_ATTEMPTS, SETTLES_MS = 5, 300
expect.set_options(timeout=PATIENCE_SECONDS * 1000)
WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
PRUNE_HALF = {
    "version": 1,
    "steps": [
        {"technique": "magnitude_pruning", "settings": {"sparsity": 0.5, "scope": "global"}},
        {"technique": "weight_quantization", "settings": {"bits": 8}},
    ],
}
LOW_RANK = {
    "version": 1,
    "steps": [
        {"technique": "low_rank", "settings": {"by": "ratio", "ratio": 0.4}},
        {"technique": "cast", "settings": {"dtype": "float16"}},
    ],
}
DISTILLED = {
    "version": 1,
    "steps": [
        {"technique": "magnitude_pruning", "settings": {"sparsity": 0.9}},
        {"technique": "distillation", "settings": {"epochs": 2}},
    ],
}


@pytest.fixture(scope="package")
def served(tmp_path_factory) -> Served:
    earnest = {"timing_seconds": "3"} if SCREENSHOTS else {}
    with serving(tmp_path_factory.mktemp("instance"), webhook_networks="127.0.0.0/8", **earnest) as pare:
        yield pare


@pytest.fixture(scope="package")
def api(served) -> Api:
    return Api(served.url)


@pytest.fixture(scope="package")
def samples(api) -> dict[str, str]:
    """The ids of what a fresh Pare holds, by file name, once they are inspected."""
    ids = {}
    for path in shipped.FILES:
        kind = "checkpoints" if path == shipped.CHECKPOINT else "datasets"
        row = next(row for row in api.get(f"/{kind}")["items"][::-1] if row["name"] == path.name)
        ready = api.wait(f"/{kind}/{row['id']}", lambda row: row["state"] != "inspecting")
        assert ready["state"] == "ready", ready
        ids[path.name] = row["id"]
    return ids


@pytest.fixture(scope="package")
def runs(api, samples) -> list[str]:
    """Three runs of the sample that have succeeded; the last has trained."""
    asked = {
        "Half of it, in 8 bits": PRUNE_HALF,
        "Low-rank factors in float16": LOW_RANK,
        "A tenth of it, distilled": DISTILLED,
    }
    made = [
        api.run(samples["digits_cnn.safetensors"], recipe, samples["digits.npz"], name)["id"]
        for name, recipe in asked.items()
    ]
    for run_id in made:
        finished = api.finished(run_id)
        assert finished["state"] == "succeeded", finished["error"]
    return made


@pytest.fixture(scope="package")
def with_onnx(api, samples) -> str:
    """A run of the sample that was also written as ONNX."""
    asked = api.run(
        samples["digits_cnn.safetensors"],
        {"version": 1, "steps": [{"technique": "weight_quantization", "settings": {"bits": 8}}]},
        samples["digits.npz"],
        "To deploy",
        exports=["safetensors", "onnx"],
    )
    run = api.finished(asked["id"], 300)
    assert run["state"] == "succeeded", run["error"]
    return run["id"]


@pytest.fixture(scope="package")
def browser() -> Browser:
    if not Path(CHROMIUM).exists():
        message = f"There is no Chromium at {CHROMIUM}: apt-get install chromium, or name one in CHROMIUM."
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Page, "goto", goto)
            patch.setattr(Locator, "click", click)
            yield browser
        browser.close()


def goto(page: Page, url: str, **given) -> Response | None:
    """A page that loads itself again, because what it shows has ended, may do so while it is being left."""
    for _ in range(LEAVING_ATTEMPTS):
        try:
            return _goto(page, url, **given)
        except Error as error:
            if not any(told in error.message for told in ("interrupted by another navigation", "net::ERR_ABORTED")):
                raise
            page.wait_for_timeout(SETTLES_MS)  # an attempt that is not over ends the next one
    return _goto(page, url, **given)


def click(place: Locator, **given) -> None:
    """A link's page has its scripts before anything is done there."""
    _click(place, **given)
    with contextlib.suppress(Error):  # the page may have been closed by it
        place.page.wait_for_load_state("domcontentloaded")


_goto, _click = Page.goto, Locator.click


class Watched:
    """What went wrong in a page without showing: errors, and requests to other hosts."""

    def __init__(self, page: Page, url: str) -> None:
        self.found: list[str] = []
        page.on("pageerror", lambda error: self.found.append(f"{page.url}: {error}"))
        page.on("console", self._said)
        page.on("request", lambda request: self._asked(request.url, url))

    def _said(self, message) -> None:
        refused = any(f"status of {code}" in message.text for code in (409, 422))  # an answer, not a failure
        if message.type == "error" and not refused:
            self.found.append(f"{message.location.get('url')}: {message.text}")

    def _asked(self, url: str, ours: str) -> None:
        if not url.startswith((ours, "data:", "blob:")):
            self.found.append(f"asks {url}")


@pytest.fixture
def page(browser, served) -> Page:
    """A fresh visitor's page. The test fails where the page's scripts failed, or where it asked another host."""
    with visited(browser, served.url, accept_downloads=True) as page:
        yield page


@contextlib.contextmanager
def visited(browser: Browser, url: str, **settings: Any) -> Iterator[Page]:
    """A page of a visitor of their own, wide. Fails as `page` does."""
    context = browser.new_context(base_url=url, viewport=WIDE, **settings)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_SECONDS * 1000)
    watched = Watched(page, url)
    yield page
    context.close()
    assert not watched.found, "\n".join(watched.found)


def clear_recipe(page: Page) -> None:
    """Takes away the steps that the builder starts with, once its script has put them there."""
    expect(page.locator("#steps > li")).not_to_have_count(0)
    while page.locator("#steps > li").count():
        page.locator("#steps [data-remove]").first.click()


def take_image(page: Page, name: str, full_page: bool = True) -> None:
    """Into the folder SCREENSHOTS, where images are wanted."""
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=full_page)


def drawn(page: Page) -> None:
    """Waits until what the page fetches and draws by itself is there."""
    page.wait_for_load_state("networkidle")
    for chart in page.locator("[data-figure]").all():
        chart.scroll_into_view_if_needed()
        picture = chart.locator(".main-svg").first
        expect(picture).to_be_visible()
        until(lambda chart=chart, picture=picture: 0.9 < width(picture) / width(chart) < 1.01)  # after the window
    page.evaluate("scrollTo(0, 0)")


def width(place: Locator) -> float:
    """Pixels."""
    box = place.bounding_box()
    return box["width"] if box else 0.0


@pytest.fixture(params=["light", pytest.param("dark", marks=pytest.mark.slow)])
def scheme(request) -> str:
    return request.param


@pytest.fixture
def visitor(browser, served, scheme, request):
    context = browser.new_context(base_url=served.url, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_SECONDS * 1000)
    yield page
    context.close()
