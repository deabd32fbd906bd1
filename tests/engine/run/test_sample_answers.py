"""What is kept of each sample agrees with the receipt to the last digit, whatever the model is for."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from tests import zoo
from tests.engine.drawn import tone
from tests.engine.run.test_stages import Bench
from webapp.engine.run import sample_answers
from webapp.engine.run.sample_answers import FILE, scores_in, token_texts

PRUNE = ("magnitude_pruning", {"sparsity": 0.8})
PROSE = "The cat sat on the mat and looked at the wide sea for a while. Dogs run over green fields in the rain.\n\n"


def table_of(bench: Bench):
    return pq.read_table(bench.folders["verify-safetensors"] / FILE)


def require_agreement(bench: Bench, concluded) -> dict[str, list]:
    """The columns in the split's order, once every metric was computed of them."""
    columns = table_of(bench).sort_by("index").to_pydict()
    sides = zip(("baseline", "result"), scores_in(columns), strict=True)
    compared = 0
    for side, scores in sides:
        for metric, told in concluded[side]["metrics"].items():
            if metric != "spearman":  # of all pairs of samples, not of each
                value = scores[metric].value(metric)
                assert (value if math.isfinite(value) else None) == told["value"], (side, metric)
                assert scores[metric].n == told["n"]
                compared += 1
    assert compared
    return columns


@pytest.fixture
def arrays(bench):
    def save(**given):
        np.savez(bench.root / "d.npz", **given)
        facts = bench.dataset(bench.root / "d.npz", "all")
        return bench.out, facts

    return save


def test_flips_and_classes_are_those_of_the_models(tmp_path, mlp, arrays):
    torch.manual_seed(1)
    x, y = torch.randn(300, 64), np.arange(300) % 10
    run = Bench(tmp_path / "run", mlp, arrays(x=x.numpy(), y=y))
    (tmp_path / "run").mkdir()
    concluded = run.run(PRUNE)
    columns = require_agreement(run, concluded)
    was, now = np.array(columns["original_class"]) == y, np.array(columns["result_class"]) == y
    told = concluded["receipt"]["samples"]
    assert told["outcomes"]["to_wrong"] == int((was & ~now).sum())
    assert told["outcomes"]["to_right"] == int((~was & now).sum())
    assert f"{told['outcomes']['to_wrong']} of 300 now wrong" in told["sentence"]
    assert sum(told["outcomes"].values()) == 300
    np.testing.assert_allclose(columns["numbers"][7], x[7].numpy())
    artifact = next(row for row in concluded["artifacts"] if row["name"] == FILE)
    assert artifact["size_bytes"] == (run.folders["verify-safetensors"] / FILE).stat().st_size
    assert concluded["result"]["size_bytes"] == run.artifact.stat().st_size  # no byte of the samples is the model's
    worst = table_of(run).to_pydict()
    first = told["outcomes"]["to_wrong"]
    assert set(worst["outcome"][:first]) == {"to_wrong"}
    assert worst["distance"][:first] == sorted(worst["distance"][:first], reverse=True)


def test_without_labels_it_is_told_what_is_answered_otherwise(tmp_path, mlp, arrays):
    run = Bench(tmp_path, mlp, arrays(x=torch.randn(50, 64).numpy()), options={"task": "classification"})
    concluded = run.run(PRUNE)
    columns = require_agreement(run, concluded)
    changed = np.array(columns["original_class"]) != np.array(columns["result_class"])
    assert concluded["receipt"]["samples"]["outcomes"].get("changed", 0) == changed.sum() > 0
    assert "label" not in columns


def test_numbers_keep_both_answers_and_the_target(tmp_path, inspected, arrays):
    torch.manual_seed(0)
    checkpoint = inspected(nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 2)))
    x = torch.randn(40, 6)
    run = Bench(tmp_path, checkpoint, arrays(x=x.numpy(), y=torch.randn(40, 2).numpy()))
    concluded = run.run(PRUNE)
    assert concluded["receipt"]["samples"]["kind"] == "numbers"
    columns = require_agreement(run, concluded)
    errors = np.square(np.array(columns["result_answer"]) - np.array(columns["target"])).mean(1)
    np.testing.assert_allclose(errors, columns["result_mse"], rtol=1e-4)
    assert concluded["receipt"]["samples"]["outcomes"] is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_text_keeps_the_loss_of_each_token(tmp_path, bench, dtype):
    (bench.root / "t.txt").write_text(PROSE * 60)
    facts = bench.dataset(bench.root / "t.txt", "all")
    run = Bench(tmp_path / "run", zoo.checkpoint("llama", dtype), (bench.out, facts))
    (tmp_path / "run").mkdir()
    concluded = run.run(("weight_quantization", {"bits": 3}))
    columns = require_agreement(run, concluded)
    told = concluded["receipt"]["samples"]
    assert (told["kind"], told["tokens"]) == ("tokens", sum(map(len, columns["tokens"])))
    for side in ("original", "result"):
        for losses, total in zip(columns[f"{side}_loss"], columns[f"{side}_perplexity"], strict=True):
            assert losses[0] is None
            assert sum(losses[1:]) == pytest.approx(total, rel=1e-5)


def test_of_many_tokens_the_worst_are_kept(tmp_path, bench, monkeypatch):
    (bench.root / "t.txt").write_text(PROSE * 60)
    facts = bench.dataset(bench.root / "t.txt", "all")
    everything = Bench(tmp_path / "all", zoo.checkpoint("llama"), (bench.out, facts))
    (tmp_path / "all").mkdir()
    everything.run(("weight_quantization", {"bits": 3}))
    length = len(table_of(everything)["tokens"][0])
    monkeypatch.setattr(sample_answers, "MOST_TOKENS", 2 * length)
    few = Bench(tmp_path / "few", zoo.checkpoint("llama"), (bench.out, facts))
    (tmp_path / "few").mkdir()
    concluded = few.run(("weight_quantization", {"bits": 3}))
    require_agreement(few, concluded)  # every chunk still has its row
    assert concluded["receipt"]["samples"]["tokens_kept"] == 2 * length < concluded["receipt"]["samples"]["tokens"]
    whole, kept = table_of(everything).to_pydict(), table_of(few).to_pydict()
    assert kept["tokens"][:2] == whole["tokens"][:2]
    assert kept["tokens"][2:] == [None] * (len(whole["tokens"]) - 2)


def test_the_bytes_of_samples_are_bounded_and_the_worst_kept(tmp_path, mlp, arrays, monkeypatch):
    monkeypatch.setattr(sample_answers, "MOST_CONTENT_BYTES", 10 * 64 * 4)
    run = Bench(tmp_path, mlp, arrays(x=torch.randn(50, 64).numpy(), y=np.arange(50) % 10))
    concluded = run.run(PRUNE)
    require_agreement(run, concluded)
    assert concluded["receipt"]["samples"]["contents_kept"] == 10
    assert [numbers is not None for numbers in table_of(run)["numbers"].to_pylist()] == [True] * 10 + [False] * 40


class Letters:
    """Each token is a byte of UTF-8, as a byte-level tokenizer's may be."""

    def decode(self, ids, **_):
        return bytes(ids).decode("utf8", "replace")


def test_tokens_joined_are_the_text_whatever_a_token_breaks():
    text = "naïve – 日本 ok"
    found = token_texts(Letters(), list(text.encode()))
    assert "".join(found) == text
    assert len(found) == len(text.encode())


def test_tokens_of_a_model_without_a_tokenizer_are_numbers():
    assert token_texts(None, [3, 14]) == [" 3", " 14"]


def test_a_run_without_data_keeps_no_samples(tmp_path, mlp):
    concluded = Bench(tmp_path, mlp).run(PRUNE)
    assert concluded["receipt"]["samples"] is None
    assert FILE not in [artifact["name"] for artifact in concluded["artifacts"]]


def image_folders(bench):
    files = {f"pets/{label}/{n}.png": tone(60 * label, seed=n) for label in (0, 1) for n in range(4)}
    return bench.zip("images.zip", files)


def questions(bench):
    rows = [{"context": "the cat", "choices": ["sat on the mat", f"ran {'. ' * n}"], "answer": n % 2} for n in range(8)]
    return bench.file("q.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def labelled(bench):
    rows = [{"text": f"the {'good' if n % 2 else 'bad'} cat sat {'. ' * n}", "label": n % 2} for n in range(10)]
    return bench.file("t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def prose(bench):
    return bench.file("t.txt", " ".join(f"The cat sat on the mat {'good ' * n}." for n in range(1, 9)))


def masks(bench):
    np.savez(bench.root / "m.npz", x=np.random.default_rng(0).random((6, 3, 8, 8), "f4"), y=np.zeros((6, 8, 8), int))
    return bench.root / "m.npz"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "upload", "options", "kind", "content"),
    [
        ("vit", image_folders, {}, "classes", "picture"),
        ("vit", image_folders, {"task": "embedding"}, "distances", "picture"),
        ("llama", questions, {}, "choices", "choices"),
        ("llama", prose, {}, "tokens", "tokens"),
        ("bert", labelled, {}, "classes", "text"),
        ("bert", prose, {"task": "embedding"}, "distances", "text"),
        ("bert", prose, {"task": "distance"}, "numbers", "text"),
    ],
)
def test_every_kind_of_data_is_kept_with_what_it_is(tmp_path, bench, family, upload, options, kind, content, dtype):
    path = upload(bench)
    facts = bench.dataset(path, "all")
    run = Bench(tmp_path / "run", zoo.checkpoint(family, dtype), (bench.out, facts), options=options)
    (tmp_path / "run").mkdir()
    concluded = run.run(("weight_quantization", {"bits": 3}))
    columns = require_agreement(run, concluded)
    assert concluded["receipt"]["samples"]["kind"] == kind
    assert all(columns[content])
    assert concluded["receipt"]["samples"]["contents_kept"] == len(columns["index"])
    if content == "text" and upload is labelled:
        assert columns["text"][3] == json.loads(path.read_text().splitlines()[3])["text"]


def test_places_of_an_image_are_kept_as_the_receipt_counts_them(tmp_path, bench):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1)).eval()
    program = torch.export.export(module, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, bench.root / "m.pt2")
    facts = bench.checkpoint(bench.root / "m.pt2")
    checkpoint = bench.out, facts
    path = masks(bench)
    run = Bench(tmp_path / "run", checkpoint, (lambda told: (bench.out, told))(bench.dataset(path, "all")))
    (tmp_path / "run").mkdir()
    columns = require_agreement(run, run.run(PRUNE))
    assert len(columns["original_mean_iou"][0]) == 2
    assert all(columns["picture"])
