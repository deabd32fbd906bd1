"""A model comes in as it is: as a folder that the browser sends, or from a folder of the machine."""

import re

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.api_client import Api
from tests.e2e.conftest import NARROW, WIDE
from tests.engine.importers.tiny_gguf import model_of, write_gguf
from tests.hub_server import hub_server
from tests.pare_process import serving
from tests.patience import PATIENCE_SECONDS, until
from tests.zoo import build_tiny, write_tokenizer
from webapp.engine.importers.gguf.importance import Entry, Importance, write_importance

CHECKPOINT = re.compile(r"/checkpoints/[2-9a-z]{12}$")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "llama"
    build_tiny("LlamaForCausalLM", "llama").bfloat16().save_pretrained(path, max_shard_size="10KB")
    write_tokenizer(path)
    (path / "README.md").write_text("of no matter")
    (path / "pytorch_model.bin").write_bytes(b"left aside, for there are safetensors")
    return path


@pytest.fixture(scope="module")
def named(tmp_path_factory, folder):
    """A Pare whose operator names the folder that the model lies in, and a hub."""
    with hub_server() as hub:
        hub.add("someone/tiny", folder)
        settings = {"import_folders": str(folder.parent), "hub_url": hub.url, "hub_token": hub.token}
        with serving(tmp_path_factory.mktemp("instance"), **settings) as pare:
            yield pare


@pytest.fixture
def page(browser, named) -> Page:
    with browser.new_context(base_url=named.url) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        yield page


def ready(page: Page, api: Api):
    page.wait_for_url(CHECKPOINT)
    return api.wait(f"/checkpoints/{page.url.rpartition('/')[2]}", lambda row: row["state"] != "inspecting")


def test_a_folder_that_breaks_off_goes_on_and_becomes_one_checkpoint(page, named, folder):
    cut = []

    def cut_off(route) -> None:
        if route.request.method == "PATCH" and len(cut) < 2:
            cut.append(route.request.url)
            return route.abort("connectionreset")
        route.continue_()

    page.route("**/api/v1/uploads/*", cut_off)
    page.goto("/checkpoints/new")
    choose(page, folder)
    expect(page.get_by_text("it goes on by itself")).to_be_visible()
    row = ready(page, Api(named.url))
    assert (row["state"], row["reason"], row["name"]) == ("ready", None, "llama")
    taken = {path.name for path in folder.iterdir()} - {"README.md", "pytorch_model.bin"}
    assert set(row["source"]["files"]) == taken
    assert {source["name"] for source in row["facts"]["sources"]} < taken
    assert row["facts"]["architecture"]["inputs"]["tokenizer"] is True


def test_after_a_reload_the_same_folder_goes_on_with_the_files_that_lack(page, named, folder):
    whole = []

    def cut_off(route) -> None:
        if route.request.method == "PATCH":
            if len(whole) == 2:
                return route.abort("connectionreset")
            whole.append(route.request.url)
        route.continue_()

    page.route("**/api/v1/uploads/*", cut_off)
    page.goto("/checkpoints/new")
    page.get_by_label("Task").first.select_option("causal-lm")
    choose(page, folder)
    expect(page.get_by_text("it goes on by itself")).to_be_visible()
    page.unroute("**/api/v1/uploads/*")
    page.reload()
    expect(page.get_by_text("The upload of the folder llama broke off")).to_be_visible()
    expect(page.get_by_label("Task").first).to_have_value("causal-lm")
    again = []
    page.on("request", lambda request: again.append(request.url) if request.method == "PATCH" else None)
    choose(page, folder)
    assert ready(page, Api(named.url))["state"] == "ready"
    assert again
    assert not set(whole) & set(again), "what was whole is not sent again"
    page.goto("/checkpoints/new")
    page.wait_for_load_state("networkidle")
    expect(page.get_by_text("broke off")).to_be_hidden()


def choose(page: Page, folder) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a folder").click()
    chooser.value.set_files(folder)


def test_several_files_are_one_checkpoint_too_and_without_a_config_that_is_said(page, named, folder):
    page.goto("/checkpoints/new")
    shards = sorted(folder.glob("*.safetensors"))
    page.locator("input[type=file]").set_input_files(shards)
    expect(page.get_by_role("alert")).to_contain_text("Add the config.json that belongs to them")
    page.locator("input[type=file]").set_input_files([*shards, folder / "config.json"])
    row = ready(page, Api(named.url))
    assert (row["state"], row["reason"]) == ("ready", None)


def test_a_gguf_is_chosen_together_with_its_importance_matrix(page, named, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", model_of("llama"), kind="Q8_0")
    entry = Entry(torch.ones(1, 64), torch.tensor([512.0]))
    write_importance(tmp_path / "tiny-imatrix.gguf", Importance({"blk.0.attn_q.weight": entry}, 1, 512))
    page.goto("/checkpoints/new")
    page.locator("input[type=file]").set_input_files([path, tmp_path / "tiny-imatrix.gguf"])
    row = ready(page, Api(named.url))
    assert (row["state"], row["reason"], row["name"]) == ("ready", None, "tiny.gguf")
    assert row["facts"]["importance"] == "1 chunk of 512 tokens of calibration"
    expect(page.get_by_text("tells llama.cpp's quantization which inputs matter").first).to_be_visible()


def test_stop_keeps_nothing_of_a_folder(page, named, folder):
    page.route(
        "**/api/v1/uploads/*", lambda route: route.abort() if route.request.method == "PATCH" else route.continue_()
    )
    page.goto("/checkpoints/new")
    page.locator("input[type=file]").set_input_files([*folder.glob("*.safetensors"), folder / "config.json"])
    expect(page.get_by_text("it goes on by itself")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("alert")).to_contain_text("Stopped. Nothing was kept.")
    page.reload()
    page.wait_for_load_state("networkidle")
    expect(page.get_by_text("broke off at")).to_be_hidden()


def test_a_checkpoint_of_the_machine_is_chosen_and_used_where_it_lies(page, named, folder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    page.goto("/checkpoints/new")
    page.get_by_label("Checkpoint", exact=True).select_option(str(folder))
    page.get_by_role("button", name="Use it").click()
    page.wait_for_url(CHECKPOINT)
    expect(page.get_by_text("used where they lie, not copied")).to_be_visible()
    expect(page.get_by_text(str(folder))).to_be_visible()
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_model_is_fetched_by_its_name_and_its_result_is_pushed(page, named):
    api = Api(named.url)
    page.goto("/checkpoints/new")
    page.get_by_label("Model", exact=True).fill("someone/tiny")
    page.get_by_role("button", name="Fetch it").click()
    row = ready(page, api)
    assert (row["state"], row["reason"]) == ("ready", None)
    expect(page.get_by_text(f"someone/tiny at {row['source']['revision'][:12]}")).to_be_visible()
    recipe = {"version": 2, "steps": [{"technique": "weight_quantization", "settings": {"bits": 8}}]}
    run = api.finished(api.run(row["id"], recipe)["id"])
    page.goto(f"/runs/{run['id']}")
    page.get_by_label("Repository", exact=True).fill("someone/small")
    page.get_by_role("button", name="Push it").click()
    link = page.get_by_role("link", name="Open the commit")
    expect(link).to_be_visible()
    assert "/someone/small/commit/" in link.get_attribute("href")
    assert_readable(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_upload_page_is_readable_with_all_its_ways_in(browser, named, scheme):
    with browser.new_context(base_url=named.url, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto("/checkpoints/new")
        for summary in page.locator("summary").all():
            summary.click()
        assert_readable(page)


def assert_readable(page: Page) -> None:
    """As every page is: nothing is cut off, and axe finds nothing."""
    for size in (WIDE, NARROW):
        page.set_viewport_size(size)
        until(lambda: page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0, 20)  # charts follow
        broken = Axe().run(page).response["violations"]
        assert not broken, [f"{rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in broken]
