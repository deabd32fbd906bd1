"""Images, Parquet and questions in a real browser: the page of each, the preprocessing form and its samples."""

import base64
import json
import re
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from torch import nn

from tests.e2e.conftest import NARROW, WIDE, drawn, take_image
from tests.engine.drawn import drawn_image, encoded, tone

CAST = {"version": 1, "steps": [{"technique": "cast", "settings": {}}]}


def zip_of_images(folder: Path) -> Path:
    path = folder / "pets.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(12):
            archive.writestr(f"pets/light/{n}.png", encoded(drawn_image(n, (48, 36))))
            archive.writestr(f"pets/dark/{n}.png", tone(40, (30, 40), seed=n))
    return path


def questions(folder: Path) -> Path:
    rows = [
        {"question": f"What is {n} + {n}?", "choices": [str(2 * n), str(2 * n + 1), "a cat"], "answer": 0}
        for n in range(20)
    ]
    path = folder / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(folder: Path) -> Path:
    path = folder / "reviews.parquet"
    pq.write_table(
        pa.table({"id": range(20), "sentence": [f"Film {n} is fine." for n in range(20)], "label": [0, 1] * 10}), path
    )
    return path


def network(folder: Path) -> Path:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 2))
    torch.save(module.state_dict(), folder / "small_cnn.pt")
    return folder / "small_cnn.pt"


@pytest.fixture(scope="package")
def held(api, tmp_path_factory) -> dict[str, str]:
    """Ids of what is uploaded, and of a run on images."""
    folder = tmp_path_factory.mktemp("uploads")
    ids = {}
    for name, kind, make in (
        ("images", "datasets", zip_of_images),
        ("questions", "datasets", questions),
        ("parquet", "datasets", table),
        ("cnn", "checkpoints", network),
    ):
        row = api.upload(kind, make(folder))
        assert row["state"] == "ready", row["reason"]
        ids[name] = row["id"]
    asked = {"checkpoint_id": ids["cnn"], "dataset_id": ids["images"], "recipe": CAST, "preprocessing": {"mean": 0.5}}
    ids["run"] = api.post("/runs", {**asked, "exports": ["safetensors", "onnx"]})["id"]
    assert api.finished(ids["run"])["state"] == "succeeded"
    return ids


PAGES = {
    "dataset-images": "/datasets/{images}",
    "dataset-questions": "/datasets/{questions}",
    "dataset-parquet": "/datasets/{parquet}",
    "recipe-images": "/runs/new?checkpoint={cnn}&dataset={images}",
    "receipt-images": "/runs/{run}/receipt",
}


@pytest.mark.parametrize("name", PAGES)
def test_page(name, visitor, scheme, held):
    for width, size in (("wide", WIDE), ("narrow", NARROW)):
        visitor.set_viewport_size(size)
        visitor.goto(PAGES[name].format(**held))
        drawn(visitor)
        if name == "recipe-images":
            expect(visitor.locator("#preprocessing-samples li")).to_have_count(8)
        take_image(visitor, f"{name}-{scheme}-{width}")
        over = visitor.evaluate("document.scrollingElement.scrollWidth - innerWidth")
        assert over <= 0, f"{name} is {over} px wider than a {width} window"
        broken = Axe().run(visitor).response["violations"]
        assert not broken, [f"{rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in broken]


def test_an_image_is_tried_as_the_files_that_judged_the_model(page, held, tmp_path):
    (tmp_path / "light.png").write_bytes(encoded(drawn_image(3, (48, 36))))
    page.goto(f"/runs/{held['run']}")
    expect(page.locator("#try-white")).to_have_count(0)
    page.locator("#try-file").set_input_files(tmp_path / "light.png")
    with page.expect_request("**/try") as sent:
        page.get_by_role("button", name="Try", exact=True).click()
    content = base64.b64decode(sent.value.post_data_json["image"])
    assert content == (tmp_path / "light.png").read_bytes()
    expect(page.locator("[data-difference]")).to_contain_text("Both say")
    expect(page.locator("[data-side=result] tr")).to_have_count(2)


def test_the_preprocessing_that_the_form_asks_is_the_runs(page, api, held):
    page.goto(f"/runs/new?checkpoint={held['cnn']}&dataset={held['images']}")
    expect(page.locator("#preprocessing-samples img")).to_have_count(8)
    expect(page.get_by_label("Height")).to_have_value("8")
    before = page.locator("#preprocessing-samples img").first.get_attribute("src")
    page.get_by_label("Resize").select_option("pad")
    expect(page.locator("#preprocessing-samples img").first).not_to_have_attribute("src", before)
    page.get_by_label("Standard deviation").fill("0")
    expect(page.locator("#preprocessing-error")).to_contain_text("cannot be 0")
    page.get_by_label("Standard deviation").fill("0.25")
    page.get_by_role("textbox", name="Mean").fill("0.5, 0.25, 0")
    expect(page.locator("#preprocessing-error")).to_be_hidden()
    page.get_by_role("button", name="Start run").click()
    page.wait_for_url(re.compile(r"/runs/[2-9a-z]{12}$"))
    asked = api.get(f"/runs/{page.url.rsplit('/', 1)[1]}")["preprocessing"]
    assert (asked["resize"], asked["mean"], asked["std"]) == ("pad", [0.5, 0.25, 0.0], [0.25])
    again = page.context.new_page()  # the run's own page loads itself anew when the run ends
    again.goto(f"/runs/new?fork={page.url.rsplit('/', 1)[1]}")
    expect(again.get_by_label("Resize")).to_have_value("pad")
    again.get_by_label("Dataset", exact=True).select_option("")
    expect(again.locator("#preprocessing")).to_be_hidden()
