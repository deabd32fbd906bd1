"""Forms that are refused, in a browser: what was typed is still there, in focus, with the reason beside it."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.e2e.conftest import NARROW, WIDE, drawn, take_image


def test_notes_of_two_tabs_are_both_kept(page: Page, browser, served, api, runs):
    run = runs[0]
    api.send("PATCH", f"/runs/{run}", {"notes": "Before."})
    with browser.new_context(base_url=served.url) as context:
        other = context.new_page()
        for tab in (page, other):
            tab.goto(f"/runs/{run}")
            tab.get_by_text("Edit notes").click()
        other.get_by_role("textbox", name="Notes").fill("Written in the other tab.")
        other.get_by_role("button", name="Save notes").click()
        expect(other.get_by_text("Written in the other tab.").first).to_be_visible()
    field = page.get_by_role("textbox", name="Notes")
    field.fill("Written in this one.")
    page.get_by_role("button", name="Save notes").click()
    expect(page.get_by_role("alert")).to_contain_text("changed meanwhile")
    expect(field).to_be_focused()
    expect(field).to_have_value("Written in this one.")
    expect(page.locator(".notes")).to_have_text("Written in the other tab.")
    assert api.get(f"/runs/{run}")["notes"] == "Written in the other tab."
    page.get_by_role("button", name="Save notes").click()
    expect(page.locator(".notes")).to_have_text("Written in this one.")
    assert api.get(f"/runs/{run}")["notes"] == "Written in this one."


def test_a_refused_field_is_legible_and_read_out(visitor, scheme, runs):
    for width, size in (("wide", WIDE), ("narrow", NARROW)):
        visitor.set_viewport_size(size)
        visitor.goto(f"/runs/{runs[0]}")
        visitor.get_by_text("tags").first.click()
        visitor.get_by_label("Tags, with commas between").fill("good, " + "long" * 11)
        visitor.get_by_role("button", name="Save tags").click()
        expect(visitor.get_by_label("Tags, with commas between")).to_be_focused()
        expect(visitor.get_by_label("Tags, with commas between")).to_have_value("good, " + "long" * 11)
        drawn(visitor)
        take_image(visitor, f"refused-{scheme}-{width}")
        assert visitor.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0
        assert not Axe().run(visitor).response["violations"]


def test_what_ended_meanwhile_leads_back_to_itself(page: Page, runs):
    page.goto(f"/runs/{runs[0]}")
    page.evaluate(
        """address => {
          const form = document.querySelector("form[method=post]");
          form.action = address;
          form.requestSubmit();
        }""",
        f"/runs/{runs[0]}/cancel",
    )
    page.get_by_role("link", name="Back to the run").click()
    expect(page).to_have_url(f"/runs/{runs[0]}")
