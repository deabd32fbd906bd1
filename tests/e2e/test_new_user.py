"""What a new user does on the first day, in a real browser: from the first page to a file that a program reads."""

import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import clear_recipe
from webapp import samples as shipped
from webapp.engine.data.inspect import READ
from webapp.engine.importers import importers
from webapp.web.display import suffixes

ROOT = Path(__file__).parents[2]
RUN_TIMEOUT_MS = 180_000


@pytest.fixture
def own_files(tmp_path) -> tuple[Path, Path]:
    """The sample under names that Pare has never heard."""
    checkpoint = shutil.copy(shipped.CHECKPOINT, tmp_path / "our_reader.safetensors")
    return Path(checkpoint), Path(shutil.copy(shipped.DATASET, tmp_path / "our_digits.npz"))


def upload(page: Page, kind: str, file: Path) -> None:
    page.get_by_role("navigation", name="Main").get_by_role("link", name=kind).click()
    page.get_by_role("link", name="Upload").first.click()
    chooser = page.locator("input[type=file]")
    known = [form.accepts for form in importers().values()] if kind == "Checkpoints" else READ
    beside = [".json", ".txt", ".jinja"] if kind == "Checkpoints" else []  # of a folder
    assert chooser.get_attribute("accept").split(",") == [*suffixes(known), *beside]
    for one in known:
        expect(page.get_by_role("region", name="What can be read")).to_contain_text(one.sentence)
    chooser.set_input_files(file)
    page.wait_for_url(re.compile(rf"/{kind.lower()}/[2-9a-z]{{12}}$"))
    expect(page.locator("[data-state=ready]").first).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text(file.name)


def start(page: Page, name: str) -> str:
    """Starts the run that the builder describes, watches it to its end, and returns its address."""
    page.get_by_label("Name of the run").fill(name)
    page.get_by_role("button", name="Start run").click()
    page.wait_for_url(re.compile(r"/runs/[2-9a-z]{12}$"))
    expect(page.locator("#run-state[data-state=succeeded]")).to_be_visible(timeout=RUN_TIMEOUT_MS)
    return page.url


def accuracy_in_another_process(model: Path, arrays: Path) -> float:
    script = Path(__file__).with_name("read_artifact.py")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script, model, arrays], check=True, capture_output=True, text=True, env=environment
    )
    return float(done.stdout)


def test_from_the_first_page_to_a_file_that_answers_as_the_receipt_says(page, browser, api, own_files, tmp_path):
    checkpoint, dataset = own_files
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    upload(page, "Datasets", dataset)
    upload(page, "Checkpoints", checkpoint)

    # a recipe of two steps, whose size is told before anything runs
    page.get_by_role("link", name="Build a recipe", exact=True).click()
    page.get_by_label("Dataset", exact=True).select_option(label=dataset.name)
    clear_recipe(page)
    page.locator("[data-add=magnitude_pruning]").click()
    page.locator("[data-add=weight_quantization]").click()
    page.locator("#steps [data-setting=sparsity]").fill("0.5")
    page.locator("#steps [data-setting=bits]").select_option("8")
    expect(page.locator("#prediction-times")).to_contain_text(re.compile(r"\d"))
    expect(page.locator("#steps > li")).to_have_count(2)
    first = start(page, "Half of it")
    expect(page.get_by_role("region", name="Result")).to_contain_text(re.compile("Speed.*95 % CI", re.DOTALL))

    # another one like it, with one setting changed
    page.get_by_role("link", name="Fork and edit").click()
    page.locator("#steps [data-setting=sparsity]").fill("0.8")
    second = start(page, "A fifth of it")
    assert second != first

    # both beside each other
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Runs").click()
    for name in ("Half of it", "A fifth of it"):
        page.get_by_role("checkbox", name=f"Choose {name}", exact=True).check()
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url(re.compile(r"/compare\?.*run="))
    for name in ("Half of it", "A fifth of it"):
        expect(page.get_by_role("main").get_by_text(name).first).to_be_visible()
    expect(page.locator("[data-figure] .main-svg").first).to_be_visible()

    # a link that someone without cookies opens, and that leads nowhere else
    page.goto(first)
    page.get_by_role("button", name="Make a link").click()
    link = page.get_by_label("Share link 1").input_value()
    with browser.new_context() as private:
        guest = private.new_page()
        guest.goto(link)
        expect(guest.get_by_role("main")).to_contain_text("Half of it")
        assert "A fifth of it" not in guest.content()
        inside = guest.evaluate("[...document.querySelectorAll('a[href], form')].map(e => e.href || e.action)")
        assert not [url for url in inside if re.search(r"/(runs|checkpoints|datasets)\b", url) and link not in url], (
            inside
        )
        assert private.cookies() == []

    # the file, named after its run and read by a program that never saw the run
    run_id = first.rsplit("/", 1)[1]
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download model.safetensors").click()
    assert downloading.value.suggested_filename == "Half-of-it.safetensors"
    model = tmp_path / "downloaded.safetensors"
    downloading.value.save_as(model)
    run = api.get(f"/runs/{run_id}")
    artifact = next(a for a in run["artifacts"] if a["name"] == "model.safetensors")
    assert sha256(model.read_bytes()).hexdigest() == artifact["digest"]
    assert model.stat().st_size == run["result"]["size_bytes"] < checkpoint.stat().st_size / 3
    told = next(row for row in run["receipt"]["quality"] if row["metric"] == "accuracy")["result"]
    assert told["n"] == 540
    assert accuracy_in_another_process(model, dataset) == pytest.approx(told["value"], abs=1e-9)


def test_lists_and_the_first_page_follow_by_themselves(page, api, samples):
    page.goto("/runs")
    recipe = {"version": 1, "steps": [{"technique": "cast"}]}
    run = api.run(samples["digits_cnn.safetensors"], recipe, None, "Started elsewhere")
    row = page.get_by_role("row", name="Started elsewhere")
    row.get_by_role("checkbox").check()
    expect(row.locator("[data-state=succeeded]")).to_be_visible(timeout=RUN_TIMEOUT_MS)
    expect(row.get_by_role("checkbox")).to_be_checked()
    page.goto("/")
    api.send("DELETE", f"/runs/{run['id']}")
    expect(page.get_by_role("row", name="Started elsewhere")).to_have_count(0)


def test_a_fresh_pare_has_something_to_try(page, samples):
    page.goto("/")
    page.get_by_role("link", name=re.compile("Try it with the sample|New run")).first.click()
    expect(page.get_by_label("Checkpoint", exact=True)).to_contain_text("digits_cnn.safetensors")
    expect(page.locator("#prediction-times")).to_contain_text(re.compile(r"\d"))
