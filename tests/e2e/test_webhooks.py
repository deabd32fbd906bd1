"""A webhook is added, tried and sent again by the keyboard, in a wide window and in a narrow and dark one."""

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import take_image
from tests.e2e.test_folders import assert_readable
from tests.e2e.test_sweeps import NARROW, WIDE, press
from tests.patience import PATIENCE_SECONDS
from tests.webhook_receiver import receiving
from webapp.web.views.api.schemas import WebhookMessage


@pytest.fixture(params=[(WIDE, "light"), (NARROW, "dark")], ids=["wide", "narrow"])
def visitor(browser, served, request):
    size, scheme = request.param
    context = browser.new_context(base_url=served.url, viewport=size, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_SECONDS * 1000)
    page.look = f"{scheme}-{size['width']}"
    yield page
    context.close()


@pytest.fixture
def receiver():
    with receiving() as found:
        yield found


def seen(page, name):
    size = page.viewport_size
    take_image(page, f"{name}-{page.look}")
    assert_readable(page)
    page.set_viewport_size(size)


def test_a_webhook_is_added_tried_and_sent_again(visitor, runs, receiver):
    page = visitor
    page.goto("/")
    press(page.get_by_role("contentinfo").get_by_role("link", name="Webhooks"))
    page.wait_for_url(re.compile("/webhooks$"))
    seen(page, "webhooks-new")
    page.get_by_label("Address").fill("http://10.0.0.1/hook")
    press(page.get_by_role("button", name="Add webhook"))
    expect(page.get_by_role("alert")).to_contain_text("10.0.0.1 is not a public address")
    seen(page, "webhooks-refused")
    page.get_by_label("Address").fill(f"{receiver.url}/hook-with-a-long-name-{'x' * 100}")
    press(page.get_by_role("checkbox", name="A run was cancelled"), "Space")
    press(page.get_by_role("button", name="Add webhook"))
    page.wait_for_url(re.compile(r"/webhooks/\w{12}$"))
    expect(page.get_by_label("Secret")).to_have_value(re.compile("^whsec_"))
    expect(page.get_by_text("Nothing was sent yet")).to_be_visible()
    expect(page.get_by_role("checkbox", name="A run was cancelled")).to_be_checked()
    seen(page, "webhook-new")

    receiver.answers, receiver.said = [503], b"come back later"
    press(page.get_by_role("button", name="Send a test"))
    row = page.locator("#delivery-rows tbody tr")
    expect(row).to_contain_text("127.0.0.1 answered with an error (503): come back later")
    expect(row).to_contain_text("Tried 1 time, again at")
    seen(page, "webhook-refused")
    press(row.get_by_role("button", name="Send again"))
    expect(row.locator("[data-state=succeeded]")).to_be_visible()
    expect(row).to_contain_text("200")
    first, second = receiver.got
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    told = WebhookMessage.model_validate(first.json)  # of a real run
    assert (told.type, told.data.state) == ("test", "succeeded")
    assert told.data.verdict["sentence"] in told.text
    page.locator("#delivery-rows summary").click()
    seen(page, "webhook-sent")
    page.goto("/webhooks")
    expect(page.locator("#webhooks [data-state=succeeded]").first).to_be_visible()
    seen(page, "webhooks-list")
    for hook in page.context.request.get("/api/v1/webhooks").json()["items"]:
        page.context.request.delete(f"/api/v1/webhooks/{hook['id']}")
