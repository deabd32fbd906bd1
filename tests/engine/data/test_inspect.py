"""Datasets: two splits that never share a sample, and a sentence for everything that is not one."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch

from webapp.engine.data.datasets import open_dataset
from webapp.engine.facts import DatasetFacts

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 1, 4, 4)).astype(np.float32)
Y = RNG.integers(0, 3, 20)


def npz(bench, name="a.npz", compressed=True, **arrays):
    (np.savez_compressed if compressed else np.savez)(bench.root / name, **arrays)
    return bench.root / name


def splits(bench, facts):
    dataset = open_dataset(bench.out, facts)
    return dataset.evaluation(), dataset.training() if facts.training else None


@pytest.mark.parametrize("compressed", [True, False])
def test_arrays_are_divided_70_to_30_in_their_order(bench, compressed):
    facts = bench.dataset(npz(bench, compressed=compressed, x=X, y=Y))
    assert (facts.kind, facts.split, facts.sample_shape, facts.labels) == (
        "arrays",
        "70/30",
        (1, 4, 4),
        ("0", "1", "2"),
    )
    assert (facts.evaluation.n, facts.training.n) == (6, 14)
    evaluation, training = splits(bench, facts)
    assert torch.equal(torch.cat([training.x, evaluation.x]), torch.from_numpy(X))
    assert torch.equal(torch.cat([training.y, evaluation.y]), torch.from_numpy(Y))
    assert evaluation.y.dtype == torch.int64
    assert facts.value_range == (float(X[14:].min()), float(X[14:].max()))
    assert DatasetFacts.model_validate_json(facts.model_dump_json()) == facts


@pytest.mark.parametrize("end", ["test", "eval", "val"])
def test_parts_that_are_given_stay_what_they_are(bench, end):
    arrays = {"x_train": X[:5], "y_train": Y[:5], f"x_{end}": X[5:], f"y_{end}": Y[5:], "names": np.array(["a"])}
    facts = bench.dataset(npz(bench, **arrays))
    assert (facts.split, facts.evaluation.n, facts.training.n) == ("given", 15, 5)
    assert facts.notes == ("Not used: names.",)


def test_all_of_it_may_evaluate(bench):
    facts = bench.dataset(npz(bench, x=X, y=Y), split="all")
    assert (facts.split, facts.evaluation.n, facts.training) == ("all", 20, None)
    facts = bench.dataset(npz(bench, x_train=X[:5], y_train=Y[:5], x_test=X[5:], y_test=Y[5:]), split="all")
    assert (facts.evaluation.n, facts.training) == (20, None)


def test_labels_are_optional(bench):
    facts = bench.dataset(npz(bench, x=X))
    assert facts.labels is None
    assert splits(bench, facts)[0].y is None


def test_samples_that_both_halves_hold_are_left_out_of_training(bench):
    x = X.copy()
    x[2], x[7] = x[16], x[19]
    facts = bench.dataset(npz(bench, x=x, y=Y))
    assert (facts.evaluation.n, facts.training.n) == (6, 12)
    assert facts.notes == ("2 samples of the training split evaluate too and were left out of it.",)
    evaluation, training = splits(bench, facts)
    assert not set(training.hashes()) & set(evaluation.hashes())
    assert torch.equal(training.y, torch.from_numpy(Y)[[i for i in range(14) if i not in (2, 7)]])


def test_samples_sorted_by_label_are_noted(bench):
    facts = bench.dataset(npz(bench, x=X, y=np.sort(Y)))
    assert "sorted by label" in facts.notes[0]


@pytest.mark.parametrize(
    ("y", "expected", "labels"),
    [
        (Y.astype(np.float64), Y, ("0", "1", "2")),
        (Y.astype(np.uint8)[:, None], Y, ("0", "1", "2")),
        (np.eye(3)[Y], Y, ("0", "1", "2")),
        (np.array(["cat", "ant", "bee"])[Y], np.array([2, 0, 1])[Y], ("ant", "bee", "cat")),
        (Y > 0, (Y > 0).astype(int), ("0", "1")),
    ],
)
def test_labels_come_in_many_forms(bench, y, expected, labels):
    facts = bench.dataset(npz(bench, x=X, y=y), split="all")
    assert facts.labels == labels
    assert splits(bench, facts)[0].y.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("dtype", "kept"), [(np.float64, torch.float32), (np.int16, torch.float32), (np.uint8, torch.uint8)]
)
def test_numbers_are_kept_as_float32_or_bytes(bench, dtype, kept):
    x = RNG.integers(0, 200, (9, 3)).astype(dtype)
    facts = bench.dataset(npz(bench, x=x), split="all")
    found = splits(bench, facts)[0].x
    assert found.dtype == kept
    assert found.tolist() == x.tolist()
    assert any("0 to 255" in note for note in facts.notes) == (dtype is np.uint8)


def bad(**changes):
    return {"x": X, "y": Y} | changes


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"images": X}, "holds images; it needs x"),
        (bad(y=Y[:-1]), "20 samples in x and 19 labels in y"),
        (
            bad(x=np.where(np.arange(320).reshape(X.shape) == 100, np.nan, X)),
            "holds 1 NaN or infinite values, the first in sample 6",
        ),
        (bad(x=X.astype(complex)), "of type complex128; it must hold real numbers"),
        (bad(x=np.array(["text"] * 20)[:, None]), "it must hold real numbers"),
        (bad(x=X.astype(object)), "holds Python objects (a pickle), which are never read"),
        (bad(x=np.float32(3)), "it needs samples first"),
        (bad(x=X[:0], y=Y[:0]), "it needs samples first"),
        (bad(x=X * np.float64(1e300)), "too large for float32"),
        (bad(y=np.where(Y == 1, np.nan, Y)), "NaN or infinite values, the first in sample 3"),
        (bad(y=np.array([["a", "b"]] * 20)), "each sample needs a label, a mask or numbers"),
        (bad(y=Y.astype(complex)), "each sample needs a label, a mask or numbers"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": np.stack([Y, Y * 3], 1)}, "they must be alike"),
        ({"x": X[:1], "y": Y[:1]}, "holds 1 sample; to divide it takes 2"),
        ({"x_train": X, "y_train": Y, "x_test": X[:3]}, "labels for one part only"),
        (
            {"x_train": X, "x_test": X[:3, :, :2]},
            "training samples of shape [1, 4, 4] and evaluation samples of shape [1, 2, 4]",
        ),
    ],
)
def test_arrays_that_are_no_dataset_are_refused_with_their_sentence(bench, arrays, sentence):
    assert sentence in bench.dataset_refusal(npz(bench, **arrays))


@pytest.mark.parametrize(
    ("y", "targets", "shape", "classes"),
    [
        (Y, "classes", (), 3),
        (Y.astype("f4")[:, None], "classes", (), 3),
        (np.eye(3)[Y], "classes", (), 3),
        (Y == 1, "classes", (), 2),
        (Y - 1, "numbers", (), None),
        (Y + 10**9, "numbers", (), None),
        (Y + 0.5, "numbers", (), None),
        (np.stack([Y, Y * 2], 1), "numbers", (2,), None),
        (RNG.normal(size=(20, 3, 4, 4)).astype("f2"), "numbers", (3, 4, 4), None),
        (np.tile(Y[:, None, None], (1, 4, 4)).astype(np.uint8), "masks", (4, 4), 3),
        (np.tile(Y[:, None, None, None], (1, 1, 4, 4)), "masks", (4, 4), 3),
        (np.tile(Y[:, None, None] > 0, (1, 4, 4)) * np.uint8(255), "masks", (4, 4), 2),
        (np.tile(np.where(Y == 2, 255, Y)[:, None, None], (1, 4, 4)), "masks", (4, 4), 2),  # 255: not evaluated
        (np.tile(Y[:, None, None] - 1, (1, 4, 4)), "masks", (4, 4), 2),  # -1 too
    ],
)
def test_y_holds_classes_masks_or_numbers(bench, y, targets, shape, classes):
    facts = bench.dataset(npz(bench, x=X, y=y), split="all")
    assert (facts.targets, facts.target_shape, facts.labels and len(facts.labels)) == (targets, shape, classes)
    held = open_dataset(bench.out, facts).evaluation().y
    assert held.is_floating_point() == (targets == "numbers")
    if targets == "numbers":
        assert held.double().numpy() == pytest.approx(y.astype(float))


def member(shape, data=b"", descr="<f4"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"shape": shape, "fortran_order": False, "descr": descr})
    return buffer.getvalue() + data


def test_a_header_is_held_against_the_bytes_before_memory_is_taken(bench):
    path = bench.zip("a.npz", {"x.npy": member((10**12, 4), b"\0" * 64)})
    assert "x in a.npz declares 16000000000000 bytes and 64 are there" in bench.dataset_refusal(path)


def test_a_bomb_is_refused(bench):
    path = bench.root / "a.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as file,
    ):
        file.write(member((300, 2**18)))
        for _ in range(300):
            file.write(bytes(2**20))
    assert "would unpack to 3145729" in bench.dataset_refusal(path)


def test_damaged_arrays_are_read_or_refused_and_nothing_else(bench):
    from webapp.engine.errors import DatasetRefused

    generator = torch.Generator().manual_seed(0)
    for original in (npz(bench, x=X, y=Y).read_bytes(), npz(bench, x=X, y=Y, compressed=False).read_bytes()):
        for _ in range(150):
            content = bytearray(original)
            for _ in range(2):
                at, value = (int(torch.randint(0, n, (), generator=generator)) for n in (len(content), 256))
                content[at] = value
            try:
                bench.dataset(bench.file("damaged.npz", bytes(content)))
            except DatasetRefused:
                assert list(bench.out.iterdir()) == []


# Text

PARAGRAPHS = [f"Paragraph {number} has a few words, and ends." for number in range(10)]


def test_text_is_divided_at_a_paragraph(bench):
    facts = bench.dataset(bench.file("a.txt", "\n\n".join(PARAGRAPHS)))
    assert (facts.kind, facts.split) == ("text", "70/30")
    evaluation, training = splits(bench, facts)
    assert training.text == "\n\n".join(PARAGRAPHS[:7])
    assert evaluation.text == "\n\n".join(PARAGRAPHS[7:])
    assert (facts.evaluation.n, facts.training.n) == (len(evaluation.text), len(training.text))


@pytest.mark.parametrize("longest", [0, 1, 5, 9])
def test_text_is_divided_by_its_characters_however_long_its_paragraphs_are(bench, longest):
    paragraphs = [f"{text} " * (400 if number == longest else 1) for number, text in enumerate(PARAGRAPHS)]
    facts = bench.dataset(bench.file("a.txt", "\n\n".join(paragraphs)))
    assert 0.6 < facts.training.n / (facts.training.n + facts.evaluation.n) < 0.8


@pytest.mark.parametrize("separator", ["\n", " "])
def test_text_without_paragraphs_is_divided_near_70_percent(bench, separator):
    text = separator.join(f"word{number}" for number in range(200))
    facts = bench.dataset(bench.file("a.txt", text))
    evaluation, training = splits(bench, facts)
    assert training.text + separator + evaluation.text == text
    assert 0.65 < len(training.text) / len(text) < 0.75


def test_text_that_all_evaluates_is_kept_to_the_byte(bench):
    text = "  Ünïcode, \n\n\n tabs\t and the end \n"
    facts = bench.dataset(bench.file("a.txt", text), split="all")
    assert splits(bench, facts)[0].text == text
    bench.dataset(bench.file("a.txt", b"\xef\xbb\xbf" + b"one\r\ntwo"), split="all")
    assert (bench.out / "evaluation.txt").read_bytes() == b"one\ntwo"


def test_paragraphs_that_evaluate_are_left_out_of_training(bench):
    repeated = [*PARAGRAPHS[:7], *PARAGRAPHS[:2], PARAGRAPHS[9]]
    facts = bench.dataset(bench.file("a.txt", "\n\n".join(repeated)))
    evaluation, training = splits(bench, facts)
    assert evaluation.text == "\n\n".join(repeated[7:])
    assert training.text == "\n\n".join(PARAGRAPHS[2:7])
    assert "2 paragraphs of the training split evaluate too" in facts.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"", "a.txt is empty"),
        ("a.txt", b" \n ", "nothing but white space"),
        ("a.txt", b"caf\xe9", "is not UTF-8 text: byte 3 is 0xe9"),
        ("a.txt", b"a\0b", "holds zero bytes"),
        ("a.txt", b"short", "too short to divide"),
        ("a.parquet", b"PAR1....", "a damaged Parquet file"),
        ("a.npy", b"\x93NUMPY....", "a single NumPy array"),
        ("a.pkl", b"\x80\x04....", "a Python pickle, which runs code"),
        ("a.safetensors", b"\x80\x00\x00\x00\x00\x00\x00\x00{", "of no format that Pare knows"),
        ("a.doc", b"hello", "of no format that Pare knows"),
        ("a.csv", b"id,words\n1,x\n", "has id, words; it needs a column called text"),
        ("a.csv", b"text,label\n", "holds no rows"),
        ("a.csv", b"text,label\nx,1\ny\n", "line 3 of a.csv has 1 columns; its header has 2"),
        ("a.csv", b'text,label\n"x,1\n', "is not valid CSV"),
        ("a.csv", b"text,label\n ,1\n", "line 2 of a.csv has no text"),
        ("a.csv", b"text,label\nx,\ny,b\n", "has an empty label"),
        ("a.jsonl", b'{"text": "x"\n', "line 1 of a.jsonl is not valid JSON"),
        ("a.jsonl", b'["x"]\n', "line 1 of a.jsonl must be an object"),
        ("a.jsonl", b'{"text": 3}\n', "line 1 of a.jsonl has no text"),
        ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": "y"}\n', "line 2 of a.jsonl lacks a label, unlike line 1"),
        ("a.jsonl", b'{"text": "x", "label": NaN}\n', "row 1 of a.jsonl has the label nan, which is no finite number"),
        ("a.jsonl", b'{"text": "x", "label": [1]}\n', "neither whole numbers nor names"),
    ],
)
def test_text_that_is_no_dataset_is_refused_with_its_sentence(bench, name, content, sentence):
    assert sentence in bench.dataset_refusal(bench.file(name, content))


@pytest.mark.parametrize(
    ("labels", "targets", "held"),
    [
        (["0.5", "-2", "1e3"], "numbers", [0.5, -2.0, 1000.0]),
        (["1", "0", "2"], "classes", [1, 0, 2]),
        (["-1", "1", "-1"], "classes", [0, 1, 0]),
        (["nan", "b", "b"], "classes", [1, 0, 0]),
        ([str(10**6 + n) for n in range(120)], "numbers", [float(10**6 + n) for n in range(120)]),
    ],
)
def test_labels_of_text_are_classes_or_numbers(bench, labels, targets, held):
    content = "text,label\n" + "".join(f"text {n},{label}\n" for n, label in enumerate(labels))
    facts = bench.dataset(bench.file("a.csv", content), split="all")
    assert facts.targets == targets
    assert open_dataset(bench.out, facts).evaluation().labels == held


ROWS = [(f"text, number {number}", label) for number, label in enumerate(["positive", "negative"] * 5)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "sentence,label\n" + "".join(f'"{text}",{label}\n' for text, label in ROWS)),
        ("a.csv", "id;Text;Sentiment\n" + "".join(f"1;{text};{label}\n" for text, label in ROWS)),
        ("a.tsv", "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS)),
        ("a.jsonl", "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS)),
        ("a.jsonl", "\n".join(json.dumps({"content": text, "category": label, "id": 1}) for text, label in ROWS)),
    ],
)
def test_rows_of_text_and_label_are_read(bench, name, content):
    facts = bench.dataset(bench.file(name, content))
    assert (facts.kind, facts.labels) == ("labelled-text", ("negative", "positive"))
    assert facts.notes == ("Labels: 0 is negative, 1 is positive.",)
    evaluation, training = splits(bench, facts)
    assert training.texts + evaluation.texts == [text for text, _ in ROWS]
    assert training.labels + evaluation.labels == [int(label == "positive") for _, label in ROWS]


def test_numbers_as_labels_are_kept(bench):
    facts = bench.dataset(bench.file("a.csv", "text,label\nx,2\ny,0\nz,2\n"), split="all")
    assert facts.labels == ("0", "1", "2")
    assert splits(bench, facts)[0].labels == [2, 0, 2]


def test_rows_without_labels_are_read(bench):
    facts = bench.dataset(bench.file("a.jsonl", '{"text": "line\\u2028two"}\n{"text": "y"}\n'), split="all")
    assert facts.labels is None
    assert splits(bench, facts)[0].texts == ["line\u2028two", "y"]


def test_the_same_upload_has_the_same_digests(bench):
    path = npz(bench, x=X, y=Y)
    assert bench.dataset(path) == bench.dataset(path)
