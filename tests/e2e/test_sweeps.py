"""A sweep from a field of the recipe's page to the run that is taken of it."""

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import NARROW, WIDE, drawn, take_image
from tests.e2e.test_folders import assert_readable


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_field_becomes_a_range_and_the_study_grows_to_its_knee(page, samples, api, size):
    page.set_viewport_size(size)
    page.goto(f"/runs/new?checkpoint={samples['digits_cnn.safetensors']}")
    page.get_by_role("button", name="Prune half, 8-bit").click()
    expect(page.locator("#steps h3")).to_have_text(["Magnitude pruning", "Weight quantization"])
    page.get_by_role("button", name="Several values of Sparsity").focus()
    page.keyboard.press("Enter")
    values = page.get_by_label("Sparsity: several values")
    expect(values).to_be_focused()
    seed = 7 if size is WIDE else 8
    page.keyboard.type("0.3..0.8 step 0.1")
    expect(page.locator("#prediction-after")).to_have_text("6 runs")
    expect(page.locator("#prediction-runs tbody tr")).to_have_count(6)
    page.get_by_label("Seed").fill(str(seed))
    take_image(page, f"sweep-builder-{'wide' if size is WIDE else 'narrow'}")
    assert_readable(page)
    page.set_viewport_size(size)
    page.get_by_role("button", name="Start study of 6 runs").click()
    page.wait_for_url(re.compile(r"/studies/\w{12}$"))
    expect(page.locator("#study-runs tbody tr")).to_have_count(6)
    expect(page.locator('[data-figure="figure-curve"] .scatterlayer .point').first).to_be_visible()  # it grows
    study = api.wait(f"/studies/{page.url.rpartition('/')[2]}", lambda study: study["state"] != "running")
    assert study["state"] == "succeeded", study
    page.goto(study["url"])  # the page loads itself again when it is told
    expect(page.locator("#study-state")).to_contain_text("Succeeded")
    expect(page.get_by_text("6 of 6 runs ended with a result.")).to_be_visible()
    expect(page.locator('[data-figure="figure-curve"] .scatterlayer .point').first).to_be_visible()
    drawn(page)
    take_image(page, f"sweep-{'wide' if size is WIDE else 'narrow'}")
    assert_readable(page)
    page.set_viewport_size(size)
    page.get_by_role("button", name=re.compile("^Take the knee")).click()
    page.wait_for_url(re.compile(r"/runs/\w{12}$"))
    expect(page.get_by_text("Taken from")).to_be_visible()
