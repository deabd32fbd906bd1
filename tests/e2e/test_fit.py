"""From an upload to a budget that was run: what was forecast stands beside what was measured."""

import json
import re

from playwright.sync_api import Page, expect

from tests.e2e.test_new_user import RUN_TIMEOUT_MS, own_files, upload  # noqa: F401 - a fixture


def drawn(page: Page, key: str, value: str) -> list[float]:
    """The sizes of a trace of the front."""
    figure = json.loads(page.locator("#figure-front").text_content())
    return next(trace["x"] for trace in figure["data"] if trace.get(key) == value)


def forecast(page: Page) -> tuple[str, str]:
    return page.locator("#forecast-size").inner_text(), page.locator("#forecast-loss").inner_text()


def test_from_an_upload_to_a_budget_that_was_measured(page, api, own_files):  # noqa: F811
    checkpoint, dataset = own_files
    page.goto("/")
    upload(page, "Datasets", dataset)
    upload(page, "Checkpoints", checkpoint)

    page.get_by_role("link", name="Fit it").first.click()
    page.get_by_label("Dataset").select_option(label=dataset.name)
    page.get_by_role("button", name="Profile it").click()
    expect(page.locator("#map [data-layer]").first).to_be_visible(timeout=RUN_TIMEOUT_MS)

    # the forecast, the map and the chart follow the slider
    before, places = forecast(page), page.locator("#map").inner_text()
    smaller = drawn(page, "meta", "chosen")
    slider = page.get_by_role("slider", name="Size at most")
    slider.focus()
    for _ in range(100):
        slider.press("ArrowRight")
    expect(page.locator("#forecast-size")).not_to_have_text(before[0])
    expect(page.locator("#forecast-loss")).not_to_have_text(before[1])
    expect(page.locator("#map")).not_to_have_text(places)
    assert drawn(page, "meta", "chosen") > smaller

    # families that are off are not chosen
    size, tolerance = page.locator("#size"), page.locator("#tolerance")
    size.fill("150")
    for family in ("Low rank", "Pruning"):
        page.get_by_role("switch", name=family).uncheck()
    expect(page.locator("#layer-table")).not_to_contain_text("sparsity")
    expect(page.locator("#budget-error")).to_be_hidden()

    # a layer is decided by hand: the budget spends its bytes elsewhere
    place = page.get_by_role("gridcell", name=re.compile("fc2"))
    place.focus()
    place.press("Enter")
    options = page.get_by_role("dialog", name="classifier.fc2")
    options.get_by_role("radio").first.click()
    expect(options.get_by_role("status")).to_contain_text("The file:")
    options.get_by_role("button", name="Done").click()
    expect(page.locator("#locked")).to_contain_text("1 layer is decided by you.")
    expect(place).to_be_focused()
    expect(place).to_have_accessible_name(re.compile("classifier.fc2"))

    # the smallest file within a tolerance, and what cannot be met
    asked = size.input_value()
    tolerance.fill("0.5")
    expect(size).not_to_have_value(asked)
    size.fill("0.001")
    expect(page.locator("#budget-error")).to_contain_text("smallest file")
    expect(page.get_by_role("button", name="Run it and measure")).to_be_disabled()
    size.fill("90")
    expect(page.locator("#budget-error")).to_be_hidden()
    expect(tolerance).to_have_value("")

    # it is raced against uniform recipes of its bytes; the receipt has the forecast beside what was measured
    page.get_by_role("button", name="Run it and measure").click()
    page.wait_for_url(re.compile(r"/studies/[2-9a-z]{12}$"))
    study = api.get(f"/studies/{page.url.rsplit('/', 1)[1]}")
    for run in study["runs"]:
        finished = api.finished(run["id"])
        assert finished["state"] == "succeeded", finished["error"]
    page.goto(f"/runs/{study['runs'][0]['id']}/receipt")
    told = page.get_by_role("region", name="Expected and measured")
    expect(told.get_by_role("row", name=re.compile("^File"))).to_contain_text("not larger")
    expect(told.get_by_role("row", name=re.compile("^Loss"))).to_contain_text(re.compile(r"\d"))

    # blame: a layer is given back, and both are compared
    page.goto(f"/runs/{study['runs'][0]['id']}")
    page.get_by_role("link", name="Blame and undo").click()
    page.get_by_role("checkbox", name="Give back classifier.fc1").check()
    page.get_by_role("button", name="Give back").click()
    page.wait_for_url(re.compile(r"/runs/[2-9a-z]{12}$"))
    undone = api.finished(page.url.rsplit("/", 1)[1])
    assert undone["state"] == "succeeded"
    before_undoing = api.get(f"/runs/{study['runs'][0]['id']}")
    assert undone["result"]["size_bytes"] > before_undoing["result"]["size_bytes"] + 50_000
    page.goto(f"/compare?run={before_undoing['id']}&run={undone['id']}")
    for name in ("Budget", "Budget, classifier.fc1 given back"):
        expect(page.get_by_role("main").get_by_role("link", name=name, exact=True).first).to_be_visible()

    # what was measured stands on the front of the checkpoint
    page.goto(f"/checkpoints/{undone['checkpoint_id']}/fit")
    assert len(drawn(page, "name", "Measured by runs")) >= len(study["runs"])
