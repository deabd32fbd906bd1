"""From the verdict to the samples that the smaller model gets wrong, and into the form that asks both models again."""

import re

import pytest
from playwright.sync_api import Page, expect


@pytest.fixture(scope="module")
def harsh(api, samples) -> str:
    """A run with ONNX that costs some digits."""
    recipe = {"version": 2, "steps": [{"technique": "magnitude_pruning", "settings": {"sparsity": 0.8}}]}
    asked = api.run(
        samples["digits_cnn.safetensors"], recipe, samples["digits.npz"], "Harsh", exports=["safetensors", "onnx"]
    )
    run = api.finished(asked["id"], 300)
    assert run["state"] == "succeeded", run["error"]
    return run["id"]


def test_a_flip_is_found_and_tried_again(page: Page, api, harsh):
    page.goto(f"/runs/{harsh}")
    page.get_by_role("link", name=re.compile("now wrong")).click()
    expect(page.get_by_role("heading", name="Samples", exact=True)).to_be_visible()
    page.locator("select[name=outcome]").select_option("to_wrong")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile("outcome=to_wrong"))
    told = api.get(f"/runs/{harsh}/samples?outcome=to_wrong&limit=1")
    expect(page.locator("#samples .panel-head")).to_contain_text(f"{told['matching']} of 540")
    first = page.locator(".sample").first
    expect(first.locator("img")).to_be_visible()
    row = told["items"][0]
    first.get_by_role("link", name="Try this one").click()
    expect(page.locator("#try-given")).to_have_count(1)
    page.get_by_role("button", name="Try", exact=True).click()
    expect(page.locator("[data-side=original] tr.best th")).to_have_text(str(row["original_class"]))
    expect(page.locator("[data-side=result] tr.best th")).to_have_text(str(row["result_class"]))


def test_runs_are_held_side_by_side_by_their_samples(page: Page, api, harsh, runs):
    page.goto(f"/compare/samples?run={harsh}&run={runs[0]}")
    lost = api.get(f"/runs/{harsh}/samples")["outcomes"]
    expect(page.get_by_label("samples that run 1 loses")).to_have_text(str(lost["to_wrong"] + lost["both_wrong"]))
    expect(page.locator(".cell-lost").first).to_be_visible()
    page.get_by_label("samples that run 2 loses").click()
    expect(page).to_have_url(re.compile(f"lost={runs[0]}"))
