"""The comparison in a browser: axes and colours by keyboard, a zoom that stays, a point that opens its run."""

import re

from playwright.sync_api import expect

from tests.e2e.conftest import NARROW, drawn
from tests.e2e.test_folders import assert_readable

CHART = '[data-figure="figure-tradeoff"]'


def test_a_zoom_stays_while_runs_are_coloured_and_sorted_and_a_point_opens_its_run(page, runs):
    page.goto(f"/compare?run={runs[0]}&run={runs[1]}&run={runs[2]}")
    drawn(page)
    plot = page.locator(f"{CHART} .nsewdrag").first.bounding_box()
    page.mouse.move(plot["x"] + 5, plot["y"] + 5)
    page.mouse.down()
    page.mouse.move(plot["x"] + plot["width"] * 0.5, plot["y"] + plot["height"] * 0.9, steps=6)
    page.mouse.up()
    page.wait_for_url(re.compile(r"[?&]zoom=[-\d.]+%2C"))
    zoom = re.search(r"zoom=([^&#]+)", page.url)[1]

    page.get_by_label("Colour by").select_option("technique")
    page.wait_for_url(re.compile("colour=technique"))
    assert f"zoom={zoom}" in page.url
    drawn(page)
    ends = page.evaluate(f"document.querySelector('{CHART}').layout.xaxis.range")
    assert [f"{end:.6g}" for end in ends] == [f"{float(end):.6g}" for end in zoom.split("%2C")[:2]]
    page.locator("#table-size").get_by_role("button", name="Size", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("sort=size_bytes"))
    assert f"zoom={zoom}" in page.url
    assert "colour=technique" in page.url
    expect(page.locator("#table-size th[aria-sort=ascending]")).to_have_text(re.compile("Size"))

    page.get_by_label("X axis").select_option("time_ratio")  # another axis is seen whole
    page.wait_for_url(re.compile("x=time_ratio"))
    assert "zoom" not in page.url
    drawn(page)
    point = page.locator(f"{CHART} .scatterlayer .point").first.bounding_box()
    page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    expect(page.locator(f"{CHART} .hoverlayer .hovertext")).to_be_visible()
    page.mouse.click(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    page.wait_for_url(re.compile(r"/runs/\w{12}$"))
    assert page.url.rpartition("/")[2] in runs


def test_recipes_and_layers_stand_side_by_side_in_a_narrow_window_too(page, runs):
    page.set_viewport_size(NARROW)
    page.goto(f"/compare?run={runs[0]}&run={runs[1]}&run={runs[2]}")
    recipes = page.locator("#recipes")
    expect(recipes.get_by_role("columnheader", name="Low-rank factors in float16")).to_be_attached()
    expect(recipes.get_by_role("row", name=re.compile("Technique Magnitude pruning")).first).to_be_visible()
    recipes.locator("#equal-settings summary").focus()
    page.keyboard.press("Enter")
    expect(recipes.get_by_role("row", name="Checkpoint digits_cnn.safetensors")).to_be_visible()
    expect(page.locator("#table-layers tbody tr").first).to_be_visible()
    assert_readable(page)
