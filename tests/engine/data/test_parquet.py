"""Parquet: what its columns are taken for, and a sentence where that is unclear or the footer lies."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.engine.drawn import drawn_image, encoded, tone
from webapp.engine.data.datasets import open_dataset
from webapp.engine.data.preprocessing import Preprocessing
from webapp.engine.errors import DatasetRefused

TEXTS = [f"text number {n}" for n in range(10)]
LABELS = [n % 2 for n in range(10)]
IMAGES = [{"bytes": tone(200 if n % 2 else 50, seed=n), "path": f"{n}.png"} for n in range(10)]


def parquet(bench, columns, metadata=None, **more):
    table = pa.table(columns)
    if metadata:
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, bench.root / "a.parquet", **more)
    return bench.root / "a.parquet"


def all_of(bench, path):
    facts = bench.dataset(path, split="all")
    return facts, open_dataset(bench.out, facts, Preprocessing(height=4, width=4, shortest=4)).evaluation()


def test_text_and_label(bench):
    facts, split = all_of(bench, parquet(bench, {"id": list(range(10)), "sentence": TEXTS, "label": LABELS}))
    assert (facts.kind, split.texts, split.labels, facts.labels) == ("labelled-text", TEXTS, LABELS, ("0", "1"))
    assert facts.notes[:2] == ("Taken: sentence as text, label as label.", "Not used: id.")


def test_names_that_the_datasets_library_noted(bench):
    noted = {"info": {"features": {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}}}
    path = parquet(bench, {"text": TEXTS, "label": LABELS}, {"huggingface": json.dumps(noted)})
    facts, split = all_of(bench, path)
    assert (facts.labels, split.labels) == (("neg", "pos"), LABELS)


def test_text_alone_is_prose(bench):
    facts, split = all_of(bench, parquet(bench, {"text": [*TEXTS, "", None]}))
    assert (facts.kind, split.text) == ("text", "\n\n".join(TEXTS))


@pytest.mark.parametrize("column", [IMAGES, [image["bytes"] for image in IMAGES]])
def test_images_and_label(bench, column):
    facts, split = all_of(bench, parquet(bench, {"image": column, "label": LABELS}))
    assert (facts.kind, facts.evaluation.n, facts.evaluation.per_class) == ("images", 10, (5, 5))
    x, y = split.numbers(0, 10)
    assert ((x.mean((1, 2, 3)) > 0.5).long() == y).all()


def test_numbers_and_label(bench):
    numbers = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    facts, split = all_of(
        bench, parquet(bench, {"a": numbers[:, 0], "b": numbers[:, 1], "species": ["x", "y"] * 5, "label": LABELS})
    )
    assert "species" in facts.notes[0] or facts.kind == "labelled-text"  # one column of text wins
    facts, split = all_of(bench, parquet(bench, {"a": numbers[:, 0], "b": numbers[:, 1], "label": ["x", "y"] * 5}))
    assert (facts.kind, facts.sample_shape, facts.labels) == ("arrays", (2,), ("x", "y"))
    assert np.array_equal(split.x.numpy(), numbers)
    facts, split = all_of(bench, parquet(bench, {"x": list(numbers), "y": LABELS}))
    assert (facts.sample_shape, split.y.tolist()) == ((2,), LABELS)


def test_questions(bench):
    columns = {"question": ["What?"] * 10, "choices": [["this", "that"]] * 10, "answer": LABELS}
    facts, split = all_of(bench, parquet(bench, columns))
    assert facts.kind == "multiple-choice"
    assert [question.answer for question in split.questions] == LABELS


def test_row_groups_and_codecs_do_not_matter(bench):
    path = parquet(bench, {"text": TEXTS, "label": LABELS}, row_group_size=3, compression="zstd")
    assert all_of(bench, path)[1].texts == TEXTS


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (
            {"premise": TEXTS, "hypothesis": TEXTS, "label": LABELS},
            "has the columns premise, hypothesis, which hold text",
        ),
        ({"image": IMAGES, "fine": LABELS, "coarse": LABELS}, "has the columns fine, coarse beside image"),
        ({"left": IMAGES, "right": IMAGES, "label": LABELS}, "has the columns left, right, which hold images"),
        ({"a": [1.0, 2.0]}, "has the columns a, which are there, and none is called text or label"),
        ({"label": LABELS}, "none holds text, images or numbers beside the label"),
        ({"text": TEXTS[:0], "label": LABELS[:0]}, "holds no rows"),
        ({"text": ["a", None], "label": [0, 1]}, "row 2 of a.parquet has no text"),
        ({"text": ["a", "b"], "label": [0, None]}, "row 2 of a.parquet lacks a label, unlike row 1"),
        ({"a": [1.0, None], "label": [0, 1]}, "a in a.parquet holds missing, NaN"),
        ({"x": [[1.0], [1.0, 2.0]], "label": [0, 1]}, "rows of different lengths"),
        ({"image": [{"bytes": b"no", "path": ""}] * 2, "label": [0, 1]}, "row 1 is not an image that can be read"),
        ({"image": [{"bytes": tone(9), "path": ""}] * 2, "label": [1, 1]}, "images of one class, 1"),
        ({"question": ["q"], "choices": [["only"]], "answer": [0]}, "has 1 choices"),
    ],
)
def test_what_is_unclear_is_refused_with_the_columns_named(bench, columns, sentence):
    assert sentence in bench.dataset_refusal(parquet(bench, columns), "all")


def test_an_image_that_cannot_be_read_is_noted_with_its_row(bench):
    cut = encoded(drawn_image(1, (64, 64)), "JPEG")[:300]
    columns = {
        "image": [*IMAGES, {"bytes": cut, "path": "x"}, {"bytes": None, "path": "y"}],
        "label": [*LABELS, 0, 1],
    }
    facts, _ = all_of(bench, parquet(bench, columns))
    assert facts.evaluation.n == 10
    assert "row 11 is damaged" in " ".join(facts.notes)
    assert "row 12 has no bytes" in " ".join(facts.notes)


def footer(path) -> tuple[bytes, int]:
    content = path.read_bytes()
    return content, int.from_bytes(content[-8:-4], "little")


@pytest.mark.parametrize(
    "lie",
    [
        lambda content, size: content[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1",  # a footer beyond the file
        lambda content, size: content[: len(content) // 2],
        lambda content, size: content[:4] + content[-size - 8 :],  # the columns are gone
        lambda content, size: content[:4] + bytes(len(content) - size - 12) + content[-size - 8 :],  # or zeros
    ],
)
def test_a_footer_that_lies_gets_its_sentence(bench, lie):
    path = parquet(bench, {"text": TEXTS, "label": LABELS})
    path.write_bytes(lie(*footer(path)))
    sentence = bench.dataset_refusal(path)
    assert "a.parquet" in sentence
    assert str(bench.root) not in sentence


def varint(number: int) -> bytes:
    """A number as Thrift's compact protocol writes it: zigzag, seven bits a byte."""
    number, out = number << 1, b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def test_more_rows_than_there_are_get_their_sentence(bench):
    """1,234 rows become 1,235 in the footer and in its row group: the pages hold fewer than both declare."""
    path = parquet(bench, {"text": ["a"] * 1234, "label": [0] * 1234})
    content, size = footer(path)
    lying = content[-size - 8 :].replace(varint(1234), varint(1235))
    assert lying != content[-size - 8 :]
    path.write_bytes(content[: -size - 8] + lying)
    assert "a.parquet" in bench.dataset_refusal(path)


def test_rows_that_add_up_to_other_than_the_footer_declares(bench):
    path = parquet(bench, {"text": ["a"] * 1234, "label": [0] * 1234})
    content, size = footer(path)
    tail = content[-size - 8 :]
    path.write_bytes(content[: -size - 8] + tail.replace(varint(1234), varint(1235), 1))
    assert "declares 1,235 rows, and its row groups others" in bench.dataset_refusal(path)


def test_a_few_bytes_that_unfold_to_gigabytes_are_refused(bench, monkeypatch):
    monkeypatch.setattr("webapp.engine.data.readers.parquet.MOST_BYTES", 100_000)
    path = parquet(bench, {"text": ["a" * 1000] * 1000})
    assert path.stat().st_size < 10_000
    assert "holds more than 100,000 bytes in text" in bench.dataset_refusal(path)
    monkeypatch.setattr("webapp.engine.data.readers.parquet.CHUNK_LIMIT_BYTES", 100)
    assert "in one row group; at most 100 are read" in bench.dataset_refusal(path)
    monkeypatch.setattr("webapp.engine.data.readers.parquet.MOST_ROWS", 100)
    assert "declares 1,000 rows; at most 100 are read" in bench.dataset_refusal(path)


def test_damaged_files_never_raise_anything_unforeseen(bench):
    whole = parquet(bench, {"text": TEXTS, "label": LABELS}).read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(whole)
        for at in generator.integers(4, len(content) - 8, 3):
            content[at] = generator.integers(0, 256)
        try:
            bench.dataset(bench.file("damaged.parquet", bytes(content)))
        except DatasetRefused:
            assert list(bench.out.iterdir()) == []
