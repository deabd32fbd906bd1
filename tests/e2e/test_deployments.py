"""A compressed model from the page to its clients: deployed by a click, asked, stopped, killed; Pare killed too."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.error
import urllib.request

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from tests.api_client import Api
from tests.e2e.conftest import drawn, take_image
from tests.pare_process import serving
from tests.patience import PATIENCE_SECONDS, until
from tests.serving.deployed_models import seeded_runs

BLANK = [[[0.0] * 8] * 8]


def predicted(url: str, token: str, row=BLANK):
    name = url.rsplit("/", 1)[1]
    request = urllib.request.Request(
        f"{url}/v1/models/{name}:predict",
        json.dumps({"instances": [row]}).encode(),
        {"Authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return json.loads(answer.read())["predictions"]


def test_deployed_by_a_click_asked_and_stopped(page: Page, with_onnx, api):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"/runs/{with_onnx}")
    page.get_by_role("button", name="Deploy model.onnx").click()
    page.wait_for_url(re.compile(r"/deployments/to-deploy"))
    expect(page.locator("[data-badge] [data-state=ready]")).to_be_visible()
    expect(page.locator("#signature")).to_contain_text("Output")  # filled in without losing the token
    token, url = (page.get_by_role("textbox", name=name).input_value() for name in ("Token", "Address"))
    page.get_by_role("button", name="Copy Python, requests").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert token in copied
    said: list[object] = []
    exec(copied, {"print": said.append})  # noqa: S102 - the page's own snippet, run as a reader would
    assert said == predicted(url, token)
    assert len(said[0]) == 10
    expect(page.locator("[data-requests]").first).to_have_text("2")

    page.goto("/deployments")
    page.get_by_role("button", name="Stop to-deploy").click()
    expect(page.locator("[data-deployment=to-deploy] [data-state=stopped]")).to_be_visible()
    with pytest.raises(urllib.error.HTTPError) as refused:
        predicted(url, token)
    with refused.value as answer:
        assert answer.code == 503
        assert "is stopped" in json.loads(answer.read())["error"]
    page.get_by_role("button", name="Start to-deploy").click()
    expect(page.locator("[data-deployment=to-deploy] [data-state=ready]").first).to_be_visible()
    assert predicted(url, token) == said
    api.send("DELETE", "/deployments/to-deploy")
    expect(page.locator("[data-deployment=to-deploy]")).to_have_count(0)


def test_a_digit_is_drawn_and_both_models_answer(page: Page, with_onnx):
    page.goto(f"/runs/{with_onnx}")
    canvas = page.locator("#try-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 112, box["y"] + 25)
    page.mouse.down()
    page.mouse.move(box["x"] + 112, box["y"] + 200, steps=8)
    page.mouse.up()
    expect(page.get_by_label("Black is")).to_have_value("0")
    expect(page.get_by_label("white is")).to_have_value("1")  # as in the digits that judged the model
    page.get_by_role("button", name="Try", exact=True).click()
    expect(page.locator("[data-difference]")).to_contain_text("say")
    for side in ("original", "result"):
        expect(page.locator(f"[data-side={side}] tr")).to_have_count(10)
        expect(page.locator(f"[data-side={side}] tr.best th")).to_have_text("1")
        expect(page.locator(f"[data-side={side}]")).not_to_contain_text("ms")  # one cold answer is no measurement


def press(page: Page, place: Locator) -> None:
    place.focus()
    page.keyboard.press("Enter")


def test_a_deployment_is_tried_and_replayed_beside_its_original_by_keyboard(visitor, with_onnx, api, scheme):
    name = f"compared-{scheme}"
    api.post("/deployments", {"run_id": with_onnx, "name": name})
    api.wait(f"/deployments/{name}", lambda row: row["state"] == "ready")
    visitor.set_viewport_size({"width": 1280, "height": 860})
    visitor.goto(f"/deployments/{name}")
    press(visitor, visitor.get_by_role("link", name="Take a sample of the dataset"))
    expect(visitor.locator("#try")).to_contain_text("When the run was measured")
    press(visitor, visitor.get_by_role("button", name="Try", exact=True))
    expect(visitor.locator("[data-difference]")).to_contain_text("say")
    expect(visitor.locator("[data-side=result] tr")).to_have_count(10)

    samples = visitor.get_by_label("Samples at most")
    samples.focus()
    visitor.keyboard.press("Control+A")
    visitor.keyboard.type("120")
    expect(visitor.get_by_label("In turns with")).to_have_value("original")
    visitor.keyboard.press("Enter")
    report = visitor.locator("#replay-report")
    expect(report).to_contain_text(f"As served, {name} answers 120 samples with accuracy")
    expect(report).to_contain_text("every answer is the recorded one")
    expect(report).to_contain_text("95 % interval")
    expect(report.get_by_role("row", name="Errors")).to_contain_text("none")
    expect(report.locator("[data-figure] .main-svg").first).to_be_visible()
    expect(visitor.locator("#replay-now").get_by_role("button", name="Replay")).to_be_visible()  # it can be asked again
    expect(visitor.locator("#traffic [data-figure] .main-svg").first).to_be_visible()  # without being asked for
    for width in (1280, 390):
        visitor.set_viewport_size({"width": width, "height": 860})
        visitor.goto(f"/deployments/{name}?sample=1")
        drawn(visitor)
        take_image(visitor, f"deployment-replayed-{scheme}-{width}")
        assert visitor.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0
        assert Axe().run(visitor).response["violations"] == []
    api.send("DELETE", f"/deployments/{name}")


def models_of(instance) -> list[psutil.Process]:
    """The serving processes of an installation that live."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if "webapp.serving" in line and any(str(instance) in part for part in line):
                found += [process] if process.status() != psutil.STATUS_ZOMBIE else []
        except psutil.Error:
            continue
    return found


def ready(api: Api, name: str):
    return api.wait(f"/deployments/{name}", lambda row: row["state"] == "ready")


def test_a_model_is_healed_and_outlives_pare_itself(tmp_path_factory):
    instance, row = tmp_path_factory.mktemp("instance"), [1, 2, 3]
    run_id = seeded_runs(tmp_path_factory, instance, "rows")["rows"]
    with serving(instance, workers="0") as pare:
        api = Api(pare.url)
        made = api.post("/deployments", {"run_id": run_id, "name": "kept"})
        ready(api, "kept")
        assert predicted(made["url"], made["token"], row) == [[7.0, -1.0]]

        (process,) = models_of(instance)
        process.kill()
        until(lambda: [p for p in models_of(instance) if p.pid != process.pid])
        healed = api.wait("/deployments/kept", lambda row: row["state"] == "ready" and row["deaths"] == 1)
        assert healed["reason"] is None
        assert predicted(made["url"], made["token"], row) == [[7.0, -1.0]]

        os.kill(pare.pid, signal.SIGKILL)
        until(lambda: not models_of(instance))

    with serving(instance, workers="0") as pare:  # the same installation on another port
        ready(Api(pare.url), "kept")
        until(lambda: models_of(instance))
        url = f"{pare.url}/serve/kept"
        assert predicted(url, made["token"], row) == [[7.0, -1.0]]
    assert models_of(instance) == []
