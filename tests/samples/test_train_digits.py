"""The sample that is shipped is what its script says it is. Nothing of Pare's own measuring is used here."""

import hashlib
import inspect

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional

from webapp import samples
from webapp.samples import train_digits


def logits(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The network, written out by hand: (B, 1, 8, 8) -> (B, 10)."""
    for conv, padding in (("features.conv1", 2), ("features.conv2", 1)):
        x = functional.relu(functional.conv2d(x, weights[f"{conv}.weight"], weights[f"{conv}.bias"], padding=padding))
        x = functional.max_pool2d(x, 2)
    x = functional.relu(
        functional.linear(x.flatten(1), weights["classifier.fc1.weight"], weights["classifier.fc1.bias"])
    )
    return functional.linear(x, weights["classifier.fc2.weight"], weights["classifier.fc2.bias"])


def test_the_shipped_weights_read_more_than_97_percent_of_the_held_out_digits():
    arrays = np.load(samples.DATASET)
    with torch.inference_mode():
        answers = logits(load_file(samples.CHECKPOINT), torch.from_numpy(arrays["x_test"])).argmax(1)
    assert (answers.numpy() == arrays["y_test"]).mean() > 0.97
    assert len(answers) == train_digits.HELD_OUT


def test_the_shipped_weights_are_of_the_network_that_the_script_trains():
    weights = load_file(samples.CHECKPOINT)
    network = train_digits.network().eval()
    network.load_state_dict(weights, strict=True)
    x = torch.from_numpy(np.load(samples.DATASET)["x_test"][:32])
    with torch.inference_mode():
        torch.testing.assert_close(network(x), logits(weights, x))


def test_the_file_says_what_its_tensors_cannot():
    with safe_open(samples.CHECKPOINT, "pt") as file:
        metadata = file.metadata()
    assert metadata == train_digits.metadata()


def test_held_out_digits_are_not_among_those_it_was_trained_on():
    arrays = np.load(samples.DATASET)
    assert len(arrays["x_train"]) + len(arrays["x_test"]) == 1797
    kept = {hashlib.sha256(x.tobytes()).digest() for x in arrays["x_train"]}
    assert not kept & {hashlib.sha256(x.tobytes()).digest() for x in arrays["x_test"]}


def test_the_shipped_digits_are_those_of_scikit_learn_in_the_order_of_the_seed():
    arrays = np.load(samples.DATASET)
    for name, expected in train_digits.digits().items():
        np.testing.assert_array_equal(arrays[name], expected)
    np.testing.assert_array_equal(np.load(samples.UNLABELLED)["x"], arrays["x_test"])


def test_pixels_are_from_0_to_1_as_float32_with_a_channel():
    x = np.load(samples.DATASET)["x_train"]
    assert x.dtype == np.float32
    assert x.shape[1:] == (1, 8, 8)
    assert x.min() == 0
    assert x.max() == 1


def test_the_samples_are_small_enough_to_be_committed():
    assert sum(path.stat().st_size for path in samples.FILES) < 1_200_000


def test_scikit_learn_is_imported_by_training_alone():
    assert "sklearn" not in inspect.getsource(samples)
    assert not hasattr(train_digits, "load_digits")
