"""Whatever is in the zoo is built once and found again, and what was given up halfway is built anew."""

import pytest

from tests.zoo import FORMS


def test_a_folder_is_built_once_and_one_that_was_given_up_is_built_anew(zoo):
    built = []

    def build(folder):
        built.append(list(folder.iterdir()))
        (folder / "half").touch()
        if len(built) == 1:
            raise ValueError("given up")

    with pytest.raises(ValueError, match="given up"):
        zoo.once("a", build)
    assert [*zoo.once("a", build).iterdir()] == [*zoo.once("a", build).iterdir()] == [zoo.once("a", build) / "half"]
    assert built == [[], []]


def test_a_form_stores_weights_as_it_says(zoo):
    labels = {form: zoo.model("mlp", form).weights["0.weight"].plan.label for form in FORMS}
    assert len(set(labels.values())) >= 9, labels


def test_a_file_is_written_of_a_model_in_a_form(zoo):
    folder, told = zoo.written("onnx", "mlp", "8 bits")
    assert (folder / "model.onnx").stat().st_size == told["size_bytes"]
