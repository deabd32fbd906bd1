"""From an upload to a budget that was run: what was forecast stands beside what was measured."""

import re

from playwright.sync_api import Page, expect

from tests.e2e.test_new_user import RUN_TIMEOUT_MS, own_files, upload  # noqa: F401 - a fixture


def forecast(page: Page) -> tuple[str, str]:
    return page.locator("#forecast-size").inner_text(), page.locator("#forecast-loss").inner_text()


def test_from_an_upload_to_a_budget_that_was_measured(page, api, own_files):  # noqa: F811
    checkpoint, dataset = own_files
    page.goto("/")
    upload(page, "Datasets", dataset)
    upload(page, "Checkpoints", checkpoint)

    page.get_by_role("link", name="Fit it").click()
    page.get_by_label("Dataset").select_option(label=dataset.name)
    page.get_by_role("button", name="Profile it").click()
    expect(page.locator("#map [data-layer]").first).to_be_visible(timeout=RUN_TIMEOUT_MS)

    # the forecast, the map and the chart follow the slider
    before, places = forecast(page), page.locator("#map").inner_text()
    chosen = (
        "JSON.parse(document.getElementById('figure-front').textContent).data.find((t) => t.meta === 'chosen').x[0]"
    )
    drawn = page.evaluate(chosen)
    slider = page.get_by_role("slider", name="Size at most")
    slider.focus()
    for _ in range(150):
        slider.press("ArrowLeft")
    expect(page.locator("#forecast-size")).not_to_have_text(before[0])
    expect(page.locator("#forecast-loss")).not_to_have_text(before[1])
    expect(page.locator("#map")).not_to_have_text(places)
    assert page.evaluate(chosen) < drawn

    # a layer is decided by hand: the budget spends its bytes elsewhere
    place = page.get_by_role("gridcell", name=re.compile("fc2"))
    place.focus()
    place.press("Enter")
    options = page.get_by_role("dialog", name="classifier.fc2")
    options.get_by_role("radio").first.check()
    expect(options.get_by_role("status")).to_contain_text("The file:")
    options.get_by_role("button", name="Done").click()
    expect(page.locator("#locked")).to_contain_text("1 layer is decided by you.")
    expect(place).to_be_focused()
    expect(place).to_have_accessible_name(re.compile("classifier.fc2"))

    # the smallest file within a tolerance, and what cannot be met
    page.get_by_label("or a loss of at most").fill("0.5")
    expect(page.locator("#budget-error")).to_be_hidden()
    page.get_by_label("Size at most", exact=True).first.fill("0.001")
    expect(page.locator("#budget-error")).to_contain_text("smallest file")
    expect(page.get_by_role("button", name="Run it and measure")).to_be_disabled()
    page.get_by_label("Size at most", exact=True).first.fill("100")
    expect(page.locator("#budget-error")).to_be_hidden()
    expect(page.get_by_label("or a loss of at most")).to_have_value("")
