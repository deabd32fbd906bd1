"""A training that was killed goes on where it was, and ends with the very bytes of one that was not."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.engine.techniques.training import killed
from tests.engine.techniques.training.lessons import Told, after, blobs, same, trained, values
from webapp.engine.techniques.training import loop
from webapp.engine.techniques.training.loop import Checkpoints
from webapp.engine.weights.artifact import write_model


@pytest.fixture
def lesson(mlp, inspected, tmp_path):
    """A folder with a student of pruned integers and a wider teacher, so that projections are trained along."""
    student = after(*mlp, ("magnitude_pruning", {"sparsity": 0.8}), ("weight_quantization", {"bits": 4}))
    torch.manual_seed(1)
    teacher = after(*inspected(nn.Sequential(nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 10)), "teacher"))
    folder = tmp_path / "lesson"
    folder.mkdir()
    for name, model in (("student", student), ("teacher", teacher)):
        write_model(model, folder / f"{name}.safetensors")
    (folder / "facts.json").write_text(mlp[1].model_dump_json())
    return folder


def bytes_of(model, path) -> bytes:
    write_model(model, path)
    return path.read_bytes()


def test_killed_in_the_middle_twice_it_ends_with_the_same_bytes(lesson, tmp_path):
    undisturbed, told = Told(), Told()
    whole, outcome = killed.train(lesson, None, undisturbed)
    scratch = tmp_path / "scratch"
    for step in (25, 61):
        process = subprocess.run(
            [sys.executable, "-m", "tests.engine.techniques.training.killed", lesson, scratch, str(step)]
        )
        assert process.returncode == -9
        assert (scratch / "training.pt").exists()
    again, resumed = killed.train(lesson, scratch, told)
    assert "goes on at step" in told.lines[0]
    assert told.points == undisturbed.points, "the curve has gaps, or goes another way"
    assert bytes_of(again, tmp_path / "again") == bytes_of(whole, tmp_path / "whole")
    assert resumed == outcome


def test_broken_off_while_scales_alone_are_trained_it_ends_with_the_same_bytes(mlp, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LARGEST_SHARE", 1e9)  # a checkpoint at the end of each epoch

    class BrokenOff(Told):
        def progress(self, fraction, message=""):
            if "step 25 " in message:
                raise KeyboardInterrupt

    def train(report, scratch):
        model = after(*mlp, ("weight_quantization", {"bits": 2, "granularity": "group", "group_size": 16}))
        own = {"trains": "scales", "epochs": 3, "scratch": scratch, "report": report}
        return model, trained("distillation", model, mlp[1], blobs(), teacher=after(*mlp), **own)

    whole, outcome = train(Told(), tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        train(BrokenOff(), tmp_path / "scratch")
    again, resumed = train(told := Told(), tmp_path / "scratch")
    assert told.lines
    assert bytes_of(again, tmp_path / "again") == bytes_of(whole, tmp_path / "whole")
    assert resumed == outcome


def test_what_another_training_left_is_not_taken_for_its_own(mlp, tmp_path):
    trained("fine_tune", after(*mlp), mlp[1], blobs(), epochs=1, scratch=tmp_path / "scratch")
    found = []
    for scratch in (tmp_path / "scratch", tmp_path / "fresh"):
        found.append(after(*mlp))
        trained("fine_tune", found[-1], mlp[1], blobs(), epochs=2, scratch=scratch)
    assert same(*map(values, found))


@pytest.mark.parametrize("content", [b"", b"half a file", b"PK\x03\x04 no archive"])
def test_a_damaged_checkpoint_is_begun_anew(mlp, tmp_path, content):
    trained("fine_tune", after(*mlp), mlp[1], blobs(), epochs=2, scratch=tmp_path)
    (tmp_path / "training.pt").write_bytes(content)
    model, told = after(*mlp), Told()
    trained("fine_tune", model, mlp[1], blobs(), epochs=2, scratch=tmp_path, report=told)
    assert told.points[0][1] == 0


def test_a_state_comes_back_as_it_was_written_and_only_its_best_weights_stay(tmp_path):
    with_best = {"best_step": 4, "at": {"seconds": 1.5}, "weights": {"w": torch.arange(3.0)}}
    kept = Checkpoints(tmp_path, "mine")
    for step in (0, 2, 4):
        kept.save_best(step, {"w": torch.full((2,), float(step))})
    kept.save(with_best)
    assert sorted(path.name for path in tmp_path.glob("best-*")) == ["best-4.pt"]
    kept.close()
    again = Checkpoints(tmp_path, "mine")
    found = again.load()
    assert found["at"] == {"seconds": 1.5}
    assert torch.equal(found["weights"]["w"], torch.arange(3.0))
    assert torch.equal(again.best(4)["w"], torch.full((2,), 4.0))
    again.close()


def test_a_process_that_was_given_up_does_not_disturb_its_successor(tmp_path):
    first = Checkpoints(tmp_path, "mine")
    second = Checkpoints(tmp_path, "mine")
    assert first.folder != second.folder
    second.close()
    first.close()


def test_nothing_is_unpickled_that_could_run(tmp_path):
    class Sly:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"identity": "mine", "best_step": 0, "sly": Sly()}, tmp_path / "training.pt")
    kept = Checkpoints(tmp_path, "mine")
    assert kept.load() is None
    assert not (tmp_path / "ran").exists()
    kept.close()


def test_it_writes_after_a_while_and_at_the_ends_of_epochs_that_are_long_enough(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    kept = Checkpoints(tmp_path, "mine")
    assert not kept.due(False)
    assert kept.due(True)
    kept._took = 2.0  # a large model
    clock[0] = 15.0
    assert not kept.due(True)
    clock[0] = 21.0
    assert kept.due(True)
    assert not kept.due(False)
    clock[0] = 61.0
    assert kept.due(False)
    kept.close()
