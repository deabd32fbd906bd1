"""The table of runs in a browser: it follows what happens elsewhere, keeps ticks over pages, and needs no mouse."""

import re

import pytest
from playwright.sync_api import expect

CAST = {"version": 1, "steps": [{"technique": "cast"}]}


@pytest.fixture
def named(api, samples):
    """Starts a run of the sample; those that are left are deleted in the end."""
    made = []

    def start(name):
        made.append(api.run(samples["digits_cnn.safetensors"], CAST, None, name)["id"])
        return made[-1]

    yield start
    left = [run["id"] for run in api.get("/runs?limit=200")["items"] if run["id"] in made]
    for run_id in left:
        api.finished(run_id)
    if left:
        api.post("/runs/actions", {"action": "delete", "run_ids": left})


def test_new_runs_are_told_of_where_the_order_has_them_elsewhere(page, named, runs):
    page.goto("/runs?sort=name")
    expect(page.locator("[data-fresh]")).to_be_hidden()
    named("A new one")
    expect(page.locator("[data-fresh]")).to_contain_text("1 new run.")
    page.get_by_role("link", name="Show them").click()
    expect(page.get_by_role("row", name="A new one")).to_be_visible()


def test_ticks_are_kept_over_searches_and_can_be_taken_away(page, runs):
    page.goto("/runs?q=Half")
    page.get_by_role("checkbox", name="Choose Half of it, in 8 bits").check()
    page.goto("/runs?q=distilled")
    expect(page.locator("[data-chosen]")).to_contain_text("1 chosen, 1 of them on other pages")
    page.get_by_role("checkbox", name=re.compile("Choose A tenth")).check()
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url(re.compile(r"/compare\?run=\w+&run=\w+"))
    assert {runs[0], runs[2]} == set(re.findall(r"run=(\w+)", page.url))
    page.goto("/runs")
    expect(page.locator("[data-chosen]")).to_contain_text("Tick runs")
    page.get_by_role("checkbox", name="Choose all on this page").check()
    page.get_by_role("button", name="Choose none").click()
    expect(page.get_by_role("button", name="Compare")).to_be_disabled()


def test_a_row_changes_around_what_holds_the_focus_and_wholly_once_that_is_left(page, api, runs):
    def star(action):
        api.post("/runs/actions", {"action": action, "run_ids": [runs[1]]})

    page.goto("/runs?q=Low-rank")
    row = page.locator(f"#run-{runs[1]}")
    box, link = row.get_by_role("checkbox"), row.locator(".row-link")
    box.check()
    box.focus()
    star("star")
    expect(row.locator(".starred")).to_be_visible()
    expect(box).to_be_focused()
    expect(box).to_be_checked()
    link.focus()
    star("unstar")
    with page.expect_response(lambda told: "/runs/rows" in told.url and told.status == 200):
        pass
    with page.expect_response(lambda told: "/runs/rows" in told.url and told.status == 200):
        expect(link).to_be_focused()
    box.focus()
    expect(row.locator(".starred")).to_have_count(0)


def test_a_run_is_found_tagged_and_found_again_by_the_keyboard_alone(page, api, runs):
    page.goto("/runs")
    page.get_by_label("Search the runs").focus()
    page.keyboard.type("low-rank")
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs?q=low-rank")
    page.get_by_role("checkbox", name=re.compile("Choose Low-rank")).focus()
    page.keyboard.press("Space")
    page.locator(".tagging summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("by keyboard")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 run was tagged.")).to_be_visible()
    tag = page.get_by_role("link", name="by keyboard")
    tag.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs?tag=by+keyboard")
    expect(page.get_by_role("row", name=re.compile("Low-rank"))).to_be_visible()
    page.locator(".columns-choice summary").focus()
    page.keyboard.press("Enter")
    page.get_by_role("checkbox", name="Verdict").focus()
    page.keyboard.press("Escape")
    expect(page.locator(".columns-menu")).to_be_hidden()
    expect(page.locator(".columns-choice summary")).to_be_focused()
    api.post("/runs/actions", {"action": "untag", "tags": ["by keyboard"], "run_ids": [runs[1]]})


def test_many_are_deleted_only_when_that_is_said_twice(page, named, api):
    for run_id in [named(f"To go {n}") for n in range(2)]:
        api.finished(run_id)
    page.goto("/runs?q=To+go")
    page.get_by_label("All 2 that match").check()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Delete 2 runs?")).to_be_visible()
    page.get_by_role("link", name="Keep them").click()
    page.get_by_label("All 2 that match").check()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete 2 runs").click()
    expect(page.get_by_text("2 runs were deleted.")).to_be_visible()
    expect(page.get_by_role("heading", name="No run matches")).to_be_visible()


def test_a_run_is_renamed_starred_and_noted_where_it_is_shown(page, named, api):
    api.finished(run_id := named("First name"))
    page.goto(f"/runs/{run_id}")
    page.locator(".name-row summary").click()
    page.get_by_label("Name of the run").fill("Second name")
    page.get_by_role("button", name="Rename", exact=True).click()
    expect(page.get_by_role("heading", name="Second name")).to_be_visible()
    page.get_by_role("button", name="Star").click()
    expect(page.get_by_role("button", name="Star", pressed=True)).to_be_visible()
    page.get_by_text("Write notes").click()
    page.get_by_role("textbox", name="Notes").fill("It is **small**.")
    page.get_by_role("button", name="Save notes").click()
    expect(page.locator(".notes strong")).to_have_text("small")
    told = api.get(f"/runs/{run_id}")
    assert (told["name"], told["notes"], told["starred"]) == ("Second name", "It is **small**.", True)


def test_without_scripts_the_table_is_searched_and_acted_on(browser, served, runs):
    context = browser.new_context(base_url=served.url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/runs")
    page.get_by_label("Search the runs").fill("distilled")
    page.locator("select[name=state]").select_option("succeeded")
    page.get_by_role("button", name="Filter").click()
    assert page.url.endswith("/runs?q=distilled&state=succeeded")
    page.get_by_role("checkbox", name=re.compile("Choose A tenth")).check()
    page.get_by_role("button", name="Compare").click()
    assert page.url.endswith(f"/compare?run={runs[2]}")
    context.close()
