"""Fine-tuning learns from labels and text; with LoRA only a thin product is trained, and merged into what is stored."""

import pytest
import torch

from tests.engine.techniques.training.lessons import after, blobs, same, trained, values
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import Batch
from webapp.engine.data.datasets import Arrays
from webapp.engine.errors import DatasetUnfit, RecipeInvalid
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict
from webapp.engine.techniques.training import Student


def test_lora_changes_linear_layers_by_a_matrix_of_its_rank_and_nothing_else(mlp):
    model = after(*mlp)
    before = values(model)
    assert trained("fine_tune", model, mlp[1], blobs(), epochs=3, lora_rank=2).ok
    changes = {name: value - before[name] for name, value in values(model).items()}
    for name in ("0.weight", "2.weight"):
        assert int(torch.linalg.matrix_rank(changes[name], atol=1e-5)) == 2
    for name in ("0.bias", "2.bias"):
        assert not changes[name].any()


@pytest.mark.parametrize("steps", [[], [("magnitude_pruning", {"sparsity": 0.6})]], ids=["dense", "pruned"])
def test_what_lora_trained_is_what_is_merged(mlp, monkeypatch, steps):
    """The network that was trained answers as the merged one does, to the last weight update."""
    seen = {}
    write_back = Student.write_back
    x = blobs(32, seed=9)

    def watched(student):
        with torch.no_grad():
            seen["answers"] = student(Batch({"x": x.x}, None, 32))
        write_back(student)

    monkeypatch.setattr(Student, "write_back", watched)
    model = after(*mlp, *steps)
    trained("fine_tune", model, mlp[1], blobs(), epochs=2, lora_rank=3)
    with torch.no_grad():
        assert torch.allclose(build(model)(x.x), seen["answers"], atol=1e-4)


def test_lora_finds_nothing_where_no_layer_is_linear(mlp):
    with pytest.raises(RecipeInvalid, match="finds nothing to train"):
        trained("fine_tune", after(*mlp), mlp[1], blobs(), only="bias", lora_rank=2)


def test_labels_with_noise_do_not_make_it_worse_than_it_was(mlp):
    """The best weights are kept, those from before the training among them."""
    good = after(*mlp)
    trained("fine_tune", good, mlp[1], blobs(), epochs=10)
    before = values(good)
    outcome = trained("fine_tune", good, mlp[1], blobs(), epochs=2, learning_rate=3.0, clip=0)
    assert outcome.ok or same(before, values(good))
    assert outcome.ok or "left as they were" in outcome.note


def test_it_says_what_is_missing(mlp):
    with pytest.raises(DatasetUnfit, match="upload a dataset with labels"):
        trained("fine_tune", after(*mlp), mlp[1], Arrays(blobs().x, None))


def test_the_prediction_is_that_nothing_is_stored_otherwise(mlp):
    _, facts = mlp
    prune = {"technique": "magnitude_pruning", "settings": {"sparsity": 0.5}}
    alone = predict(facts, Recipe.read({"steps": [prune]}))
    tuned = predict(facts, Recipe.read({"steps": [prune, {"technique": "fine_tune"}]}))
    assert tuned.after == alone.after
    assert not tuned.exact
