"""Every page, light and dark, wide and narrow: readable with a screen reader, nothing cut off.

Where PARE_SCREENSHOTS names a folder (`make screenshots`), images of them go there.
"""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.e2e.conftest import NARROW, SCREENSHOTS, WIDE, drawn, take_image
from webapp.samples import CHECKPOINT

PAGES = {
    "home": "/",
    "checkpoints": "/checkpoints",
    "checkpoint-upload": "/checkpoints/new",
    "checkpoint": "/checkpoints/{checkpoint}",
    "checkpoint-version": "/checkpoints/{version}",
    "checkpoint-returned": "/checkpoints/{returned}",
    "fit-new": "/checkpoints/{checkpoint}/fit?new=1",
    "fit": "/checkpoints/{checkpoint}/fit",
    "datasets": "/datasets",
    "dataset-upload": "/datasets/new",
    "dataset": "/datasets/{dataset}",
    "recipe": "/runs/new?checkpoint={checkpoint}",
    "recipe-continued": "/runs/new?continue={run}",
    "runs": "/runs",
    "runs-columns": "/runs?q=it&sort=-size_bytes&column=state&column=techniques&column=metric.accuracy&column=speed",
    "run": "/runs/{run}",
    "run-forked": "/runs/{forked}",
    "run-trained": "/runs/{trained}",
    "receipt": "/runs/{run}/receipt",
    "samples": "/runs/{other}/samples",
    "samples-compared": "/compare/samples?run={run}&run={other}",
    "compare-pick": "/compare",
    "compare": "/compare?run={run}&run={other}",
    "studies": "/studies",
    "study": "/studies/{study}",
    "blame": "/runs/{budget}/blame",
    "shared": "{shared}",
    "deployments": "/deployments",
    "deployment": "/deployments/{deployment}",
    "run-deployable": "/runs/{deployable}",
    "techniques": "/techniques",
    "not-found": "/nowhere",
}
README = {f"readme-{name}": name for name in ("runs", "fit", "study", "blame", "run", "samples", "compare")}


@pytest.fixture(scope="package")
def places(api, samples, runs, with_onnx, tmp_path_factory) -> dict[str, str]:
    deployed = api.post("/deployments", {"run_id": with_onnx, "name": "shown"})["name"]
    api.wait(f"/deployments/{deployed}", lambda row: row["state"] == "ready")
    checkpoint, dataset = samples["digits_cnn.safetensors"], samples["digits.npz"]
    profile = api.post("/profiles", {"checkpoint_id": checkpoint, "dataset_id": dataset})["id"]
    api.wait(f"/profiles/{profile}", lambda row: row["state"] == "succeeded")
    families = None if SCREENSHOTS else ["Quantization"]  # a race of two, where nobody looks at it
    race = {"profile_id": profile, "race": {"goal": {"bytes": 90_000}}, "families": families}
    study = api.wait(f"/studies/{api.post('/studies', race)['id']}", lambda row: row["state"] == "succeeded")
    budget = study["runs"][0]["id"]
    api.post(f"/runs/{budget}/blame", {})
    assert api.finished(budget)["receipt"]["blame"]["layers"]
    api.send("PATCH", f"/checkpoints/{checkpoint}", {"best_run_id": runs[0]})
    file = tmp_path_factory.mktemp("delivered") / "digits_cnn_half.safetensors"
    file.write_bytes(api.send("GET", f"/runs/{runs[0]}/artifacts/model.safetensors"))
    version = api.upload("checkpoints", CHECKPOINT)["id"]
    api.send("PATCH", f"/checkpoints/{version}", {"newer_than_id": checkpoint})
    forked = api.post(f"/checkpoints/{version}/runs", {"run_ids": [runs[0]]})["items"][0]["id"]
    assert api.finished(forked)["state"] == "succeeded"
    api.send("PATCH", f"/runs/{runs[0]}", {"tags": ["baseline", "for the paper"], "starred": True})
    return {
        "version": version,
        "returned": api.upload("checkpoints", file)["id"],
        "forked": forked,
        "study": study["id"],
        "budget": budget,
        "deployment": deployed,
        "deployable": with_onnx,
        "checkpoint": checkpoint,
        "dataset": dataset,
        "run": runs[0],
        "other": runs[1],
        "trained": runs[2],
        "shared": api.post(f"/runs/{runs[0]}/shares")["url"],
    }


@pytest.mark.parametrize("name", PAGES)
def test_page(name, visitor, scheme, places):
    for width, size in (("wide", WIDE), ("narrow", NARROW)):
        visitor.set_viewport_size(size)
        visitor.goto(PAGES[name].format(**places))
        drawn(visitor)
        take_image(visitor, f"{name}-{scheme}-{width}")
        over = visitor.evaluate("document.scrollingElement.scrollWidth - innerWidth")
        assert over <= 0, f"{name} is {over} px wider than a {width} window"
        broken = Axe().run(visitor).response["violations"]
        told = [f"{rule['id']}: {rule['help']}\n    {rule['nodes'][0]['html'][:200]}" for rule in broken]
        assert not broken, f"{name}, {scheme}, {width}:\n" + "\n".join(told)


if SCREENSHOTS:

    @pytest.mark.parametrize("name", README)
    def test_images_of_the_readme(name, page, places):
        page.set_viewport_size({"width": 1280, "height": 860})
        page.goto(PAGES[README[name]].format(**places))
        drawn(page)
        take_image(page, name, full_page=False)
        assert (Path(SCREENSHOTS) / f"{name}.png").stat().st_size > 20_000
