"""A result goes on: continued from its page, with new steps after the earlier ones."""

from playwright.sync_api import expect

from tests.e2e.conftest import drawn


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
