"""What goes wrong is said on the page, in a sentence, and can be stopped from it."""

import contextlib
import hashlib
import random
import re
import time
from pathlib import Path

import psutil
import pytest
import torch
from playwright.sync_api import expect
from safetensors.torch import save_file

from tests.e2e.conftest import clear_recipe
from tests.pare_process import Served
from tests.patience import CANCELLED_WITHIN_SECONDS, PATIENCE_SECONDS, until, within
from webapp import samples as shipped


@pytest.fixture(scope="module")
def slow_checkpoint(api, tmp_path_factory) -> str:
    """Three matrices whose singular values take a while."""
    path = tmp_path_factory.mktemp("slow") / "slow.safetensors"
    generator = torch.Generator().manual_seed(0)
    weights = {f"layers.{i}.weight": torch.randn(2800, 2800, generator=generator) / 50 for i in range(3)}
    save_file(weights, path)
    return api.upload("checkpoints", path)["id"]


def compressing(served: Served) -> list[psutil.Process]:
    """The living children that compress; one that ends while we look is not among them."""
    found = []
    for child in psutil.Process(served.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if Path(child.cwd()).is_relative_to(served.instance / "work"):
                found.append(child)
    return found


def test_cancel_ends_the_run_and_its_process_within_3_seconds(page, api, served, slow_checkpoint):
    recipe = {"version": 1, "steps": [{"technique": "low_rank", "settings": {"by": "energy", "energy": 0.5}}]}

    def cancelled() -> float:
        run_id = api.run(slow_checkpoint, recipe)["id"]
        page.goto(f"/runs/{run_id}")
        expect(page.locator("[data-stage=step-1] [data-state=running]")).to_be_visible()
        assert compressing(served)
        page.get_by_role("button", name="Cancel").click()
        asked = time.monotonic()
        expect(page.locator("#run-state[data-state=cancelled]")).to_be_visible()
        until(lambda: not compressing(served))
        return time.monotonic() - asked

    within(CANCELLED_WITHIN_SECONDS, cancelled)
    expect(page.get_by_role("button", name="Retry")).to_be_visible()


def test_a_file_that_is_cut_off_is_refused_with_the_reason(page, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(shipped.CHECKPOINT.read_bytes()[:-1000])
    page.goto("/checkpoints/new")
    page.locator("input[type=file]").set_input_files(cut)
    page.wait_for_url(re.compile(r"/checkpoints/[2-9a-z]{12}$"))
    expect(page.locator("[data-state=refused]").first).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text(re.compile("cut|truncated|bytes"))


def test_an_empty_file_is_refused_before_it_is_sent(page, tmp_path):
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    page.goto("/checkpoints/new")
    page.locator("input[type=file]").set_input_files(empty)
    expect(page.get_by_role("alert")).to_contain_text("empty.safetensors is empty")


def test_a_file_that_is_chosen_before_the_scripts_are_there_is_sent_once_they_are(page):
    def let_through_once_chosen(route) -> None:
        page.get_by_label("File of the dataset").set_input_files(shipped.DATASET)
        route.continue_()

    page.route("**/upload-parts.js*", let_through_once_chosen)
    page.goto("/datasets/new")
    page.wait_for_url(re.compile(r"/datasets/[2-9a-z]{12}$"))


def test_an_order_that_makes_no_sense_is_refused_beside_its_step(page, samples):
    page.goto(f"/runs/new?checkpoint={samples['digits_cnn.safetensors']}")
    clear_recipe(page)
    page.locator("[data-add=weight_quantization]").click()
    page.locator("[data-add=magnitude_pruning]").click()
    expect(page.locator("#steps > li").nth(1)).to_contain_text("put magnitude_pruning before the quantization")


def test_a_pattern_that_matches_nothing_is_refused_beside_it(page, samples):
    page.goto(f"/runs/new?checkpoint={samples['digits_cnn.safetensors']}")
    page.locator("#steps [data-layers] summary").first.click()
    page.locator("#steps [data-include]").first.fill("encoder.*")
    expect(page.locator("#steps [data-error=layers]").first).to_contain_text("encoder.*")
    page.locator("#steps [data-include]").first.fill("classifier.*")
    expect(page.locator("#steps [data-matches]").first).to_contain_text("2 layers")


def test_an_address_that_leads_nowhere_says_so(browser, served):
    with browser.new_context(base_url=served.url) as context:
        page = context.new_page()
        assert page.goto("/runs/222222222222").status == 404
        expect(page.get_by_role("main")).to_contain_text("It may have been deleted")


def test_an_upload_that_breaks_off_goes_on_by_itself_and_after_a_reload(browser, served, api, tmp_path):
    file = tmp_path / "large.safetensors"
    file.write_bytes(random.Random(0).randbytes(40 << 20))  # more than one part
    page = browser.new_context(base_url=served.url).new_page()
    page.set_default_timeout(PATIENCE_SECONDS * 1000)
    offsets = []

    def cut_off(route) -> None:
        if route.request.method != "PATCH":
            return route.continue_()
        offsets.append(int(route.request.headers["upload-offset"]))
        route.abort("connectionreset") if offsets in ([0], [0, 0, 32 << 20]) else route.continue_()

    page.route("**/api/v1/uploads/*", cut_off)
    page.goto("/checkpoints/new")
    page.get_by_label("Task").select_option("embedding")
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_text("it goes on by itself")).to_be_visible()
    until(lambda: len(offsets) == 3 or page.wait_for_timeout(50))
    expect(page.get_by_text("it goes on by itself")).to_be_visible()
    page.reload()
    expect(page.get_by_text("large.safetensors broke off at 80 %")).to_be_visible()
    expect(page.get_by_label("Task")).to_have_value("embedding")
    page.locator("input[type=file]").set_input_files(file)
    page.wait_for_url(re.compile(r"/checkpoints/[2-9a-z]{12}$"))
    assert offsets == [0, 0, 32 << 20, 32 << 20]
    row = api.get(f"/checkpoints/{page.url.rsplit('/', 1)[1]}")
    assert row["digest"] == hashlib.sha256(file.read_bytes()).hexdigest()
    page.goto("/checkpoints/new")
    page.wait_for_load_state("networkidle")
    expect(page.get_by_text("broke off at")).to_be_hidden()
    page.context.close()
