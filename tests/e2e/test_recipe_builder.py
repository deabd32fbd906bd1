"""The recipe builder by keyboard, by mouse and as text: whatever way a recipe is made, it is the same recipe."""

import re

import pytest
from playwright.sync_api import Page, expect

from .conftest import clear_recipe


@pytest.fixture
def builder(page, samples) -> Page:
    """Open on the sample, with magnitude pruning before 8-bit weights."""
    page.goto(f"/runs/new?checkpoint={samples['digits_cnn.safetensors']}")
    page.get_by_role("button", name="Prune half, 8-bit").click()
    expect(page.locator("#steps h3")).to_have_text(["Magnitude pruning", "Weight quantization"])
    return page


def test_steps_are_ordered_by_keyboard(builder):
    builder.get_by_role("button", name="Move Weight quantization up").focus()
    builder.keyboard.press("Enter")
    expect(builder.locator("#steps h3")).to_have_text(["Weight quantization", "Magnitude pruning"])
    expect(builder.locator("#moved")).to_have_text("Weight quantization is now step 1 of 2.")
    expect(builder.get_by_role("button", name="Move Weight quantization down")).to_be_focused()


def test_steps_are_ordered_by_dragging(builder):
    grip = builder.locator("[data-grip]").first.bounding_box()
    below = builder.locator("#steps > li").nth(1).bounding_box()
    builder.mouse.move(grip["x"] + 5, grip["y"] + 5)
    builder.mouse.down()
    builder.mouse.move(grip["x"] + 5, below["y"] + below["height"] * 0.9, steps=8)
    builder.mouse.up()
    expect(builder.locator("#steps h3")).to_have_text(["Weight quantization", "Magnitude pruning"])


def test_the_slider_and_the_number_are_one_value_and_the_forecast_follows(builder):
    expect(builder.locator("#forecast-after")).to_have_text(re.compile(r"\d"))
    before = builder.locator("#forecast-after").text_content()
    builder.get_by_role("slider", name="Sparsity, slider").focus()
    for _ in range(20):
        builder.keyboard.press("ArrowRight")
    expect(builder.get_by_role("spinbutton", name="Sparsity")).to_have_value("0.7")
    expect(builder.locator("#forecast-after")).not_to_have_text(before)
    builder.get_by_role("spinbutton", name="Sparsity").fill("0.25")
    expect(builder.get_by_role("slider", name="Sparsity, slider")).to_have_value("0.25")


def test_the_forecast_says_which_step_lacks_data(builder):
    clear_recipe(builder)
    builder.get_by_role("button", name="Wanda Removes").click()
    warnings = builder.locator("#forecast-warnings")
    expect(builder.locator("#forecast-steps tbody tr")).to_contain_text(["Wanda"])
    expect(warnings).not_to_contain_text("Wanda")
    builder.get_by_label("Dataset", exact=True).select_option("")
    expect(warnings).to_contain_text("Wanda needs calibration data")


def test_a_recipe_goes_out_as_text_and_comes_back(builder):
    builder.get_by_role("tab", name="YAML").click()
    text = builder.get_by_label("The same recipe as text")
    expect(text).to_have_value(re.compile("technique: magnitude_pruning"))
    changed = text.input_value().replace("sparsity: 0.5", "sparsity: 0.9")
    text.fill("version: 1\nsteps:\n- technique: no_such_thing\n")
    builder.get_by_role("button", name="Use this text").click()
    expect(builder.locator("#yaml-error")).to_contain_text("no_such_thing")
    text.fill(changed)
    builder.get_by_role("button", name="Use this text").click()
    expect(builder.get_by_role("spinbutton", name="Sparsity")).to_have_value("0.9")


def test_a_recipe_that_is_refused_comes_back_as_it_was_typed(builder):
    builder.get_by_label("Name of the run").fill("Too much")
    builder.get_by_role("spinbutton", name="Sparsity").fill("1.5")
    builder.get_by_role("button", name="Start run").click()
    expect(builder.locator("#form-error")).to_contain_text("Step 1, sparsity: input should be less than")
    expect(builder.locator("#form-error")).to_be_focused()
    expect(builder.get_by_label("Name of the run")).to_have_value("Too much")
    expect(builder.get_by_role("spinbutton", name="Sparsity")).to_have_value("1.5")
    expect(builder.locator("[data-error=sparsity]")).to_be_visible()
    builder.get_by_role("spinbutton", name="Sparsity").fill("0.5")
    expect(builder.locator("#form-error")).to_have_count(0)


def test_a_setting_without_a_meaning_is_not_shown(builder):
    expect(builder.get_by_label("Group size")).to_be_hidden()
    builder.get_by_label("Scale granularity").select_option("group")
    expect(builder.get_by_label("Group size")).to_be_visible()
