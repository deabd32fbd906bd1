"""A zip of images by class folder: two splits with every class, and a sentence for everything hostile."""

import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engine.drawn import drawn_image, encoded, tone
from webapp.engine.data.datasets import open_dataset
from webapp.engine.data.preprocessing import Preprocessing
from webapp.engine.data.readers import images as image_uploads
from webapp.engine.data.samples import SHOWN_FILE, shown_images

SMALL = Preprocessing(height=4, width=4, shortest=4, resize="stretch")


def folders(cats: int = 10, dogs: int = 10) -> dict[str, bytes]:
    made = {f"pets/cat/{n}.png": tone(200, seed=n) for n in range(cats)}
    return made | {f"pets/dog/{n}.png": tone(50, seed=n) for n in range(dogs)}


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few bytes that declares billions of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def splits(bench, facts):
    dataset = open_dataset(bench.out, facts, SMALL)
    return dataset.evaluation(), dataset.training() if facts.training else None


def test_both_halves_hold_70_and_30_percent_of_every_class(bench):
    facts = bench.dataset(bench.zip("pets.zip", folders(10, 20)))
    assert (facts.kind, facts.split, facts.labels) == ("images", "70/30", ("cat", "dog"))
    assert (facts.training.per_class, facts.evaluation.per_class) == ((7, 14), (3, 6))
    evaluation, training = splits(bench, facts)
    assert not set(training.hashes()) & set(evaluation.hashes())
    x, y = evaluation.numbers(0, len(evaluation))
    assert x.shape == (9, 3, 4, 4)
    assert torch.equal(y, (x.mean((1, 2, 3)) < 0.5).long())  # the dark ones are dogs


def test_a_split_that_is_given_is_kept(bench):
    parts = {
        f"data/{part}/{name.removeprefix('pets/')}": c
        for part, seed in (("train", 0), ("val", 1))
        for name, c in {
            f"pets/{kind}/{n}.png": tone(value, seed=100 * seed + n)
            for kind, value in (("cat", 200), ("dog", 50))
            for n in range(3 - seed)
        }.items()
    }
    facts = bench.dataset(bench.zip("pets.zip", parts))
    assert (facts.split, facts.training.n, facts.evaluation.n) == ("given", 6, 4)
    assert "val/ evaluates, train/ calibrates and trains." in facts.notes
    whole = bench.dataset(bench.zip("pets.zip", parts), split="all")
    assert (whole.evaluation.n, whole.training) == (10, None)


def test_the_files_are_kept_to_the_byte_and_any_program_reads_them(bench):
    given = folders(2, 2)
    bench.dataset(bench.zip("pets.zip", given), split="all")
    with zipfile.ZipFile(bench.out / "evaluation.zip") as archive:
        kept = {archive.read(name) for name in archive.namelist() if name.endswith(".png")}
    assert kept == set(given.values())


def test_the_same_upload_has_the_same_digests(bench):
    path = bench.zip("pets.zip", folders())
    assert bench.dataset(path) == bench.dataset(path)


def test_what_is_no_image_is_passed_over_with_a_note(bench):
    whole = encoded(drawn_image(3, (64, 64)), "JPEG")
    more = {
        "__MACOSX/pets/cat/._1.png": b"\0\5\26\7",
        "pets/cat/.DS_Store": b"\0",
        "pets/cat/Thumbs.db": b"\0",
        "pets/readme.txt": "hello",
        "pets/dog/words.png": "these are words",
        "pets/dog/cut.jpg": whole[: len(whole) // 2],
        "pets/dog/thin.png": tone(9, (1, 120)),
        "pets/alone.png": tone(9),
    }
    facts = bench.dataset(bench.zip("pets.zip", folders() | more), split="all")
    assert facts.evaluation.n == 20
    notes = " ".join(facts.notes)
    assert "Not used, since they are no images: pets/readme.txt." in notes
    assert "3 images were left out" in notes
    assert "pets/dog/cut.jpg is damaged" in notes
    assert "pets/dog/thin.png has 1 × 120 pixels; one side may be 100 times the other at most" in notes
    assert "pets/dog/words.png is not an image that can be read" in notes
    assert "lie in no class folder of these parts: pets/alone.png" in notes


def test_an_image_saved_twice_does_not_train_and_evaluate(bench):
    same = {"pets/cat/0.png": encoded(drawn_image(7)), "pets/cat/zz.bmp": encoded(drawn_image(7), "BMP")}
    facts = bench.dataset(bench.zip("pets.zip", folders(6, 6) | same))
    assert "1 sample of the training split evaluate too" in " ".join(facts.notes)


@pytest.mark.parametrize(
    ("form", "mode", "more"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "L", {}),
        ("PNG", "P", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("PNG", "1", {}),
        ("PNG", "I;16", {}),
        ("GIF", "P", {"save_all": True, "append_images": [drawn_image(8, mode="P")]}),
        ("WEBP", "RGB", {"save_all": True, "append_images": [drawn_image(8)]}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {}),
    ],
)
def test_every_common_kind_of_image_becomes_three_channels(bench, form, mode, more):
    image = drawn_image(5)
    image = (
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256)
        if mode == "I;16"
        else image.convert(mode)
    )
    files = folders(3, 3) | {f"pets/cat/5.{form.lower()}": encoded(image, form, **more)}
    facts = bench.dataset(bench.zip("pets.zip", files), split="all")
    assert facts.evaluation.n == 7, facts.notes
    found = next(image for image in shown_images(bench.out / SHOWN_FILE) if image.size == (20, 12))
    expected = drawn_image(5).convert("L" if mode in ("L", "LA", "1", "I;16") else "RGB")
    difference = np.abs(np.asarray(found, float) - np.asarray(expected.convert("RGB"), float)).mean()
    assert difference < {"1": 130, "P": 20}.get(mode, 12 if form in ("JPEG", "WEBP") else 1)


def test_the_orientation_of_a_camera_is_applied(bench):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    files = folders(3, 3) | {"pets/cat/5.jpg": encoded(drawn_image(5, (20, 12)), "JPEG", exif=exif)}
    facts = bench.dataset(bench.zip("pets.zip", files), split="all")
    assert (12, 20) in {(sample["width"], sample["height"]) for sample in facts.samples}


def test_folders_called_by_numbers_are_class_numbers(bench):
    files = {f"x/{label}/{n}.png": tone(20 * label, seed=n) for label in (2, 10) for n in range(3)}
    facts = bench.dataset(bench.zip("x.zip", files), split="all")
    assert len(facts.labels) == 11
    assert set(splits(bench, facts)[0].labels) == {2, 10}


@pytest.mark.parametrize(
    ("files", "note"),
    [
        (folders(3, 0), "All images lie in one folder, cat"),
        ({"a.png": tone(1), "b.png": tone(2), "c.png": tone(3)}, "The images lie in no folders"),
        ({f"pets/{n}.png": tone(n) for n in range(3)}, "All images lie in one folder, pets"),
    ],
)
def test_images_without_classes_are_inputs_alone(bench, files, note):
    facts = bench.dataset(bench.zip("pets.zip", files))
    assert (facts.labels, facts.targets, facts.evaluation.n, facts.training.n) == (None, None, 1, 2)
    assert any(note in told for told in facts.notes)
    training = open_dataset(bench.out, facts, Preprocessing(height=4, width=4)).training()
    assert training.labels is None
    assert training.numbers(0, 2)[1] is None


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (folders() | {"pets/dog/big.png": bomb()}, "pets/dog/big.png in pets.zip declares"),
        ({"a.txt": "x"}, "a zip without NumPy arrays or images"),
        ({"cat/a.png": b"x", "dog/b.png": b""}, "holds no image that can be read: cat/a.png is not an image"),
        ({"../cat/a.png": tone(1)}, "leads out of its folder"),
    ],
)
def test_what_is_no_dataset_of_images_is_refused_with_its_sentence(bench, files, sentence):
    assert sentence in bench.dataset_refusal(bench.zip("pets.zip", files))


def test_a_bomb_is_refused_before_its_pixels_are_decoded(bench):
    """Barely under Pillow's own limit, and over it: both by what the header declares."""
    for width, height in ((9_000, 9_000), (60_000, 60_000)):
        assert "pixels" in bench.dataset_refusal(
            bench.zip("pets.zip", folders() | {"pets/dog/b.png": bomb(width, height)})
        )


def test_more_files_than_are_read_are_refused(bench, monkeypatch):
    monkeypatch.setattr("webapp.engine.data.inspect.MOST_FILES", 10)
    assert "holds 20 files; a dataset has at most 10" in bench.dataset_refusal(bench.zip("pets.zip", folders()))


def test_damaged_zips_of_images_never_raise_anything_unforeseen(bench):
    whole = bench.zip("pets.zip", folders(3, 3)).read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(whole)
        for at in generator.integers(0, len(content), 8):
            content[at] = generator.integers(0, 256)
        try:
            bench.dataset(bench.file("damaged.zip", bytes(content)))
        except image_uploads.DatasetRefused:
            assert list(bench.out.iterdir()) == []


def test_the_first_70_percent_in_natural_order():
    found = [(0, f"a/{n}.png") for n in (10, 9, 1, 2)] + [(1, "b/1.png"), (1, "b/2.png")]
    assert image_uploads.mixed(found) == ["a/1.png", "b/1.png", "a/2.png", "a/9.png", "b/2.png", "a/10.png"]
