"""What a model is given of an image: held against arithmetic by hand and against transformers' own processors."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engine.drawn import drawn_image
from webapp.engine.data.preprocessing import (
    RESAMPLE,
    Preprocessing,
    check_preprocessing,
    default_preprocessing,
    read_preprocessing,
    told_preprocessing,
)
from webapp.engine.errors import DatasetUnfit, PreprocessingInvalid
from webapp.engine.facts import ArchitectureSpec


def spec(shape, family="resnet", config=None, **inputs):
    return ArchitectureSpec(
        family=family, title="A net", task="classification", config=config or {}, inputs={"shape": shape, **inputs}
    )


def given(preprocessing, image):
    return preprocessing.numbers(preprocessing.fitted(image))


def test_values_mean_and_deviation_are_applied_per_channel():
    image = drawn_image(1, (6, 4))
    asked = Preprocessing(resize="stretch", height=4, width=6, mean=(0.5, 0.25, 0), std=(0.5, 1, 2))
    expected = (np.asarray(image, np.float32) / 255 - [0.5, 0.25, 0]) / [0.5, 1, 2]
    assert np.allclose(given(asked, image), expected.transpose(2, 0, 1), atol=1e-6)
    raw = asked.model_copy(update={"values": "0 to 255", "mean": (0.0,), "std": (1.0,)})
    assert np.array_equal(given(raw, image), np.asarray(image, np.float32).transpose(2, 0, 1))


def test_crop_takes_the_centre():
    image = drawn_image(1, (20, 10))
    found = Preprocessing(shortest=10, height=10, width=10).fitted(image)
    assert np.array_equal(np.asarray(found), np.asarray(image)[:, 5:15])


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("size", [(12, 900), (900, 12), (500, 40), (41, 66), (3, 290)])
def test_the_centre_of_a_long_image_is_what_resizing_all_of_it_would_leave(interpolation, size):
    asked = Preprocessing(shortest=64, height=48, width=52, interpolation=interpolation)
    image = drawn_image(2, size)
    share = 64 / min(size)
    whole = image.resize(tuple(max(64, int(side * share)) for side in size), RESAMPLE[interpolation])
    left, top = round((whole.width - 52) / 2), round((whole.height - 48) / 2)
    expected = np.asarray(whole.crop((left, top, left + 52, top + 48)), np.int16)
    differences = np.abs(np.asarray(asked.fitted(image), np.int16) - expected)
    assert differences.max() <= 1
    if max(whole.size) < 2048:
        assert not differences.any()


@pytest.mark.parametrize("size", [(1, 100), (100, 1), (1, 1), (7, 640)])
@pytest.mark.parametrize("how", ["crop", "stretch", "pad"])
def test_no_image_is_made_large_on_the_way(monkeypatch, size, how):
    made = []
    resize = Image.Image.resize

    def told(self, size, *more):
        made.append(size[0] * size[1])
        return resize(self, size, *more)

    monkeypatch.setattr(Image.Image, "resize", told)
    Preprocessing(resize=how, shortest=2048, height=8, width=2048).fitted(drawn_image(1, size))
    assert max(made) < 32_000_000  # pixels


def test_pad_keeps_the_proportions_and_adds_black():
    found = np.asarray(Preprocessing(resize="pad", height=12, width=12).fitted(drawn_image(1, (24, 12))))
    assert not found[:3].any()
    assert not found[-3:].any()
    assert found[3:9].any(axis=(1, 2)).all()


def test_grey_has_one_channel():
    found = given(Preprocessing(channels="grey", resize="stretch", height=8, width=8), drawn_image(1))
    assert found.shape == (1, 8, 8)
    assert found.dtype == np.float32


PROCESSORS = [
    ("ViTImageProcessor", {"size": {"height": 24, "width": 24}}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 28}}),
    ("EfficientNetImageProcessor", {"size": {"height": 24, "width": 24}, "resample": 3, "rescale_offset": True}),
    ("EfficientNetImageProcessor", {"size": {"height": 24, "width": 24}, "include_top": False}),
]


@pytest.mark.parametrize(("name", "settings"), PROCESSORS)
def test_a_processor_of_transformers_gives_the_same_numbers(tmp_path, name, settings):
    import transformers

    processor = getattr(transformers, f"{name}Pil")(**settings)
    processor.save_pretrained(tmp_path)
    told = told_preprocessing(tmp_path)
    assert told is not None, (tmp_path / "preprocessor_config.json").read_text()
    image = drawn_image(3, (66, 48))  # an even rest to cut off: split pixels are rounded otherwise there
    expected = processor(image, return_tensors="np")["pixel_values"][0]
    assert expected.shape == told.shape
    assert np.abs(given(told, image) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"size": "big"}', '{"size": {"longest_edge": 9}}', "[" * 9999])
def test_a_file_that_cannot_be_followed_is_passed_over(tmp_path, content):
    (tmp_path / "preprocessor_config.json").write_text(content)
    assert told_preprocessing(tmp_path) is None


def test_defaults_follow_the_architecture():
    photographs = default_preprocessing(spec([3, None, None], config={"size": 224}))
    assert (photographs.shape, photographs.shortest, photographs.mean[0]) == ((3, 224, 224), 256, 0.485)
    digits = default_preprocessing(spec([1, 8, 8]))
    assert (digits.shape, digits.channels, digits.mean, digits.std) == ((1, 8, 8), "grey", (0,), (1,))
    told = Preprocessing(height=10, width=10, shortest=12).model_dump(mode="json")
    assert default_preprocessing(spec([3, 10, 10], preprocessing=told)).shortest == 12
    for shape in ([64], [7, 8, 8]):
        with pytest.raises(DatasetUnfit):
            default_preprocessing(spec(shape))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"height": 0}, "`preprocessing.height`: input should be greater than or equal to 1"),
        ({"heigth": 8}, "`preprocessing.heigth`: extra inputs are not permitted"),
        ({"std": "0.5, 0, 0.5"}, "the standard deviation is divided by and cannot be 0"),
        ({"mean": "1, 2"}, "it takes one number, or three"),
        ({"mean": "a"}, "`preprocessing.mean`: input should be a valid number"),
        ({"mean": float("nan")}, "one number"),
        ({"shortest": 100}, "the shortest side, 100, is less than the 224 × 224"),
        ({"channels": "grey"}, "grey images have one channel"),
        ({"resize": "squash"}, "`preprocessing.resize`: input should be 'crop', 'stretch' or 'pad'"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_sentence(asked, sentence):
    defaults = default_preprocessing(spec([3, 224, 224]))
    with pytest.raises(PreprocessingInvalid) as refused:
        read_preprocessing(asked, defaults)
    assert sentence in refused.value.message


def test_numbers_are_read_as_people_write_them():
    found = read_preprocessing({"mean": "0.5", "std": "0.5, 0.25, 1"}, Preprocessing())
    assert (found.mean, found.std) == ((0.5,), (0.5, 0.25, 1.0))
    assert Preprocessing.model_validate(json.loads(found.model_dump_json())) == found


def test_another_shape_than_the_model_takes_is_refused():
    with pytest.raises(PreprocessingInvalid, match=r"gives 3 × 224 × 224 .* takes 1 × 8 × 8"):
        check_preprocessing(spec([1, 8, 8]), Preprocessing())
    check_preprocessing(spec([3, None, None]), Preprocessing(height=64, width=48))


def test_the_checkpoint_tells_its_own_preprocessing(bench, tiny, tmp_path):
    import transformers

    folder = tmp_path / "vit"
    tiny("ViTForImageClassification", "vit").save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.1] * 3).save_pretrained(folder)
    facts = bench.checkpoint(bench.zip_folder(folder))
    found = default_preprocessing(facts.architecture)
    assert (found.shape, found.mean, found.resize) == ((3, 8, 8), (0.1, 0.1, 0.1), "stretch")
    assert torch.isfinite(torch.from_numpy(given(found, drawn_image(0)))).all()
