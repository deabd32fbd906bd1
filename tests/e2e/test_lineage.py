"""A result goes on: continued from its page, with new steps after the earlier ones."""

import re

from playwright.sync_api import expect

from tests.e2e.conftest import drawn
from webapp.samples import CHECKPOINT


def test_a_run_is_continued_from_its_page(page, api, runs):
    earlier = api.get(f"/runs/{runs[1]}")
    page.goto(f"/runs/{runs[1]}")
    page.get_by_role("link", name="Continue from this run").click()
    before = page.get_by_role("region", name="Steps of the run before")
    expect(before.get_by_role("listitem")).to_have_count(len(earlier["recipe"]["steps"]))
    expect(before).to_contain_text("nothing is computed again")
    expect(page.get_by_text("The recipe has no steps yet.")).to_be_visible()
    page.get_by_role("button", name="Weight quantization").last.click()
    card = page.get_by_role("listitem").filter(has_text="Weight quantization").first
    expect(page.locator("[data-step] [data-number]")).to_have_text("3")
    expect(card).to_be_visible()
    expect(page.locator("#prediction-steps tbody tr")).to_have_count(3)
    drawn(page)
    page.get_by_role("button", name="Start run").click()
    expect(page.get_by_text(f"continues {earlier['name']}")).to_be_visible()
    made = api.finished(page.url.rsplit("/", 1)[1])
    assert (made["state"], made["continued_from_id"]) == ("succeeded", runs[1])
    states = {stage["name"]: stage["state"] for stage in made["stages"]}
    assert [states[name] for name in ("baseline", "step-1", "step-2")] == ["reused"] * 3


def test_the_best_so_far_is_applied_to_a_newer_version_by_keyboard(page, api, samples, runs, tmp_path):
    checkpoint = samples[CHECKPOINT.name]
    page.goto(f"/runs/{runs[0]}")
    page.get_by_role("button", name="Best so far").press("Enter")
    expect(page.get_by_text(f"The best of {CHECKPOINT.name} so far")).to_be_visible()
    page.goto(f"/checkpoints/{checkpoint}")
    page.get_by_role("link", name="Upload a newer version").press("Enter")
    expect(page.get_by_label("Newer version of")).to_have_value(checkpoint)
    newer = tmp_path / "digits_cnn_v2.safetensors"
    newer.write_bytes(CHECKPOINT.read_bytes())
    page.get_by_label("File of the checkpoint").set_input_files(newer)
    expect(page.get_by_role("heading", name=f"Apply what was done to {CHECKPOINT.name}")).to_be_visible()
    expect(page.get_by_role("checkbox", name="Half of it, in 8 bits")).to_be_checked()
    page.get_by_role("button", name="Apply to this version").press("Enter")
    beside = page.get_by_role("region", name="Beside the run that it is like")
    expect(beside).to_contain_text(f"applied to {newer.name} in place of {CHECKPOINT.name}")
    made = page.url.rsplit("/", 1)[1]
    assert api.finished(made)["state"] == "succeeded"
    page.goto(f"/runs/{made}")
    expect(beside.get_by_role("row", name="Accuracy")).to_contain_text("no difference shown")
    beside.get_by_role("link", name="Compare both").press("Enter")
    expect(page).to_have_url(re.compile(f"run={runs[0]}&run={made}$"))


def test_a_delivered_file_that_is_uploaded_again_leads_to_its_run(page, api, runs, tmp_path):
    delivered = tmp_path / "half.safetensors"
    delivered.write_bytes(api.send("GET", f"/runs/{runs[0]}/artifacts/model.safetensors"))
    page.goto("/checkpoints/new")
    page.get_by_label("File of the checkpoint").set_input_files(delivered)
    expect(page.get_by_role("link", name="Continue that run")).to_be_visible()
    expect(page.get_by_text("int8 per channel").first).to_be_visible()
    tree = page.get_by_role("region", name="Lineage")
    expect(tree.locator("[aria-current]")).to_contain_text("half.safetensors")
    tree.get_by_role("link", name="Half of it, in 8 bits").press("Enter")
    expect(page.get_by_role("region", name="Lineage").get_by_text("its file, uploaded again").first).to_be_visible()
