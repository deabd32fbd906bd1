"""The recipe builder by keyboard, by mouse and as text: whatever way a recipe is made, it is the same recipe."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import NARROW, WIDE, clear_recipe


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


def test_the_slider_and_the_number_are_one_value_and_the_estimate_follows(builder):
    expect(builder.locator("#prediction-after")).to_have_text(re.compile(r"\d"))
    before = builder.locator("#prediction-after").text_content()
    slider = builder.get_by_role("slider", name="Sparsity, slider")
    box = slider.bounding_box()
    builder.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    builder.mouse.down()
    builder.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] / 2, steps=5)
    expect(builder.locator("#prediction-after")).not_to_have_text(before)  # while it is held
    builder.mouse.up()
    expect(builder.get_by_role("spinbutton", name="Sparsity")).not_to_have_value("0.5")
    builder.get_by_role("spinbutton", name="Sparsity").fill("0.25")
    expect(builder.get_by_role("slider", name="Sparsity, slider")).to_have_value("0.25")


def test_the_estimate_says_which_step_lacks_data(builder):
    clear_recipe(builder)
    builder.get_by_role("button", name="Wanda Removes").click()
    warnings = builder.locator("#prediction-warnings")
    expect(builder.locator("#prediction-steps tbody tr")).to_contain_text(["Wanda"])
    expect(warnings).not_to_contain_text("Wanda")
    builder.get_by_label("Dataset", exact=True).select_option("")
    expect(warnings).to_contain_text("Wanda needs calibration data")


def test_text_that_is_typed_is_what_runs_and_a_fault_in_it_stands_at_its_line(builder, api):
    builder.get_by_role("tab", name="YAML").click()
    text, start = builder.get_by_label("The same recipe as text"), builder.get_by_role("button", name="Start run")
    expect(text).to_have_value(re.compile("technique: magnitude_pruning"))
    right = text.input_value().replace("sparsity: 0.5", "sparsity: 0.9  # a tenth stays")
    text.fill(right.replace("bits: 8", "bits: 9"))
    line = next(n for n, row in enumerate(right.splitlines(), start=1) if "bits: 8" in row)
    expect(builder.locator("#yaml-error")).to_contain_text("Step 2, bits: input should be 8, 6, 5, 4, 3 or 2")
    expect(builder.locator("#yaml-lines .faulty")).to_have_text(str(line))
    expect(start).to_be_disabled()
    text.fill("steps: [")
    expect(builder.locator("#yaml-error")).to_contain_text("neither YAML nor JSON")
    expect(start).to_be_disabled()
    text.fill(right)
    expect(start).to_be_enabled()
    builder.get_by_role("tab", name="Steps").click()
    expect(builder.get_by_role("spinbutton", name="Sparsity")).to_have_value("0.9")
    start.click()
    builder.wait_for_url(re.compile(r"/runs/[2-9a-z]{12}$"))
    run = api.post(f"/runs/{builder.url.rsplit('/', 1)[1]}/cancel")
    assert run["recipe"]["steps"][0]["settings"]["sparsity"] == 0.9
    expect(builder.locator("#run-state[data-state=cancelled]")).to_be_visible()


def test_overrides_are_made_by_keyboard_and_are_the_same_as_text_and_in_a_draft_and_a_fork(builder, api):
    def overrides():
        return [
            (row.get_by_label("Layers").input_value(), row.get_by_label("Bits").input_value())
            for row in builder.locator("#steps > li").nth(1).locator("[data-row]").all()
        ]

    card = builder.locator("#steps > li").nth(1)
    rows, adding = card.locator("[data-row]"), card.get_by_role("button", name="Add an override")
    expect(card.locator("[data-names] option")).not_to_have_count(0)
    card.locator("[data-overrides] > summary").press("Enter")
    adding.press("Enter")
    expect(rows.first.get_by_label("Layers")).to_be_focused()
    expect(rows.first).to_contain_text("counts for 1 layer")  # the last one
    rows.first.get_by_label("Bits").select_option("6")
    adding.press("Enter")
    expect(rows.nth(1).get_by_label("Layers")).to_have_value("classifier.fc1")  # no layer twice
    builder.keyboard.type("classifier.*")
    expect(rows.nth(1)).to_contain_text("counts for 2 layers")
    expect(rows.first).to_contain_text("counts for 0 layers")
    expect(builder.locator("#prediction-warnings")).to_contain_text("'classifier.fc2' counts for no layer")
    rows.nth(1).get_by_label("Bits").select_option("3")
    rows.nth(1).get_by_role("button", name="Move this override up").press("Enter")
    expect(rows.nth(1)).to_contain_text("counts for 1 layer")
    assert overrides() == [("classifier.*", "3"), ("classifier.fc2", "6")]
    expect(rows.first.get_by_role("button", name="Move this override down")).to_be_focused()

    wrong = "head." + "long_name" * 9
    rows.first.get_by_label("Layers").fill(wrong)
    expect(rows.first.locator("[data-row-error]")).to_contain_text(f"The pattern '{wrong}' matches no layer")
    expect(builder.locator("#yaml")).to_have_value(re.compile(wrong))  # the text follows a wrong recipe too
    builder.set_viewport_size(NARROW)
    assert builder.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    builder.set_viewport_size(WIDE)
    expect(rows.first.get_by_label("Layers")).to_have_attribute("aria-invalid", "true")
    rows.first.get_by_label("Layers").fill("features.*")
    expect(rows.first).to_contain_text("counts for 2 layers")

    builder.get_by_role("tab", name="YAML").click()
    text = builder.get_by_label("The same recipe as text")
    expect(text).to_have_value(re.compile(r"features\.\*:\s+bits: 3\s+classifier\.fc2:\s+bits: 6"))
    text.fill(text.input_value().replace("features.*", "'*'"))  # at the place where it stands
    builder.get_by_role("tab", name="Steps").click()
    expect(rows.first.get_by_label("Layers")).to_have_value("*")
    expect(rows.nth(1)).to_contain_text("counts for 1 layer")
    builder.reload()
    builder.get_by_role("tab", name="Steps").click()
    expect(rows.first.get_by_label("Layers")).to_have_value("*")
    builder.get_by_role("button", name="Start run").click()
    builder.wait_for_url(re.compile(r"/runs/[2-9a-z]{12}$"))
    id = builder.url.rsplit("/", 1)[1]
    asked = api.post(f"/runs/{id}/cancel")["recipe"]["steps"][1]["overrides"]
    assert list(asked.items()) == [("*", {"bits": 3}), ("classifier.fc2", {"bits": 6})]
    builder.goto(f"/runs/new?fork={id}")
    expect(rows).to_have_count(2)
    assert overrides() == [("*", "3"), ("classifier.fc2", "6")]
    rows.first.get_by_role("button", name="Remove this override").press("Enter")
    expect(rows).to_have_count(1)
    builder.get_by_role("button", name="Undo").click()
    expect(rows).to_have_count(2)


def test_a_draft_survives_a_reload_and_back_and_a_preset(builder):
    sparsity = builder.get_by_role("spinbutton", name="Sparsity")
    sparsity.fill("0.37")
    builder.get_by_label("Name of the run").fill("Half done")
    builder.get_by_role("checkbox", name="ONNX").check()
    builder.reload()
    expect(sparsity).to_have_value("0.37")
    builder.get_by_role("link", name="Techniques").first.click()
    builder.wait_for_url(re.compile("/techniques"))
    builder.go_back()
    expect(sparsity).to_have_value("0.37")
    expect(builder.get_by_label("Name of the run")).to_have_value("Half done")
    expect(builder.get_by_role("checkbox", name="ONNX")).to_be_checked()
    builder.get_by_role("button", name="GPTQ, 4-bit").click()
    expect(builder.locator("#steps h3")).to_have_text(["GPTQ"])
    builder.get_by_role("button", name="Undo").click()
    expect(sparsity).to_have_value("0.37")
    builder.get_by_role("tab", name="YAML").click()  # text with a fault is a draft too
    builder.get_by_label("The same recipe as text").fill("# not yet\nsteps: [")
    builder.reload()
    expect(builder.get_by_label("The same recipe as text")).to_have_value("# not yet\nsteps: [")
    expect(builder.get_by_role("button", name="Start run")).to_be_disabled()
    builder.get_by_role("link", name="New run").click()  # a new visit begins anew
    builder.wait_for_url(re.compile("/runs/new$"))
    expect(builder.get_by_label("Name of the run")).to_have_value("")


def test_the_recipe_comes_first_and_formats_that_do_not_fit_are_folded_away(builder):
    first, *more = builder.locator("form h2").all_text_contents()
    assert first == "Recipe"
    assert "Formats" in more
    expect(builder.get_by_text("that do not fit this checkpoint")).to_be_visible()
    expect(builder.locator("input[value=gguf]")).to_be_hidden()
    builder.get_by_text("that do not fit this checkpoint").click()
    expect(builder.locator("input[value=gguf]")).to_be_disabled()
    box = builder.get_by_role("checkbox", name="ONNX").bounding_box()
    assert (box["width"], box["height"]) == (24, 24)


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
    expect(builder.locator("[data-setting=group_size]")).to_be_hidden()
    builder.get_by_role("combobox", name="Scale granularity").select_option("group")
    expect(builder.locator("[data-setting=group_size]")).to_be_visible()
