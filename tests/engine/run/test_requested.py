"""Requested vs. achieved: every chosen layer has a row, and one that is not green says the true reason."""

import pytest
import torch
from torch import nn

from tests.engine.importers.exported_program.exported import export
from tests.engine.run.test_stages import Bench as Run
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict
from webapp.engine.run.receipt_text import render_text
from webapp.engine.techniques import techniques
from webapp.engine.techniques.surgery import with_structure

EIGHTS = {"ratio": 0.5, "round_to": 8}


class Grouped(nn.Module):
    """Depthwise, grouped, and depthwise with two outputs for each input; then what can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.dw = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.g, self.dwm = nn.Conv2d(16, 32, 1, groups=4), nn.Conv2d(32, 64, 3, padding=1, groups=32)
        self.pw, self.fc = nn.Conv2d(64, 24, 1), nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dwm(torch.relu(self.g(torch.relu(self.dw(self.c1(x))))))
        return self.fc(torch.relu(self.pw(torch.relu(x))).mean((2, 3)))


class OneOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)
        self.c3, self.fc = nn.Conv2d(1, 12, 3, padding=1), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.c3(torch.relu(self.c2(torch.relu(self.c1(x)))))).mean((2, 3)))


@pytest.fixture
def rows(bench, apply_steps, tmp_path):
    """Structured pruning of a module: its rows by layer, and the facts of the module."""

    def cut(module, **settings):
        torch.manual_seed(0)
        given = (torch.randn(2, 3, 16, 16),)
        facts = bench.checkpoint(export(module().eval(), given, tmp_path / "m.pt2"))
        _, outcomes = apply_steps((bench.out, facts), ("structured_pruning", settings))
        assert [row.layer for row in outcomes] == [layer.name for layer in facts.layers]
        return {row.layer: row for row in outcomes}, facts

    return cut


@pytest.mark.parametrize("name", sorted(set(techniques()) - {"layer_drop", "fine_tune", "distillation"}))
def test_every_chosen_layer_has_a_row(mlp, apply_steps, given_batches, name):
    _, outcomes = apply_steps(mlp, (name, {}), data=given_batches(mlp[1].architecture))
    wanted = {unit.name for unit in mlp[1].units() if unit.kind in techniques()[name].layers}
    assert wanted <= {row.layer for row in outcomes}
    assert all(row.ok or row.note for row in outcomes)


def test_layers_that_cannot_be_cut_are_red_and_say_why(rows):
    found, facts = rows(Grouped, ratio=0.34)
    assert {name for name, row in found.items() if row.skipped} == {"c1", "dw", "g", "dwm"}
    assert "g has 4 groups" in found["c1"].note
    assert "dwm has 32 groups" in found["dwm"].note
    assert found["pw"].done == "16 of 24 channels stay (33.3\N{NO-BREAK SPACE}% removed)"
    assert found["pw"].ok
    assert found["fc"].done == "16 of 24 inputs stay"
    recipe = Recipe.read({"steps": [{"technique": "structured_pruning", "settings": {"ratio": 0.34}}]})
    told = {skipped.layer: skipped.reason for skipped in predict(with_structure(facts), recipe).steps[0].skipped}
    assert told == {name: row.note for name, row in found.items() if row.skipped}


class Places(nn.Module):
    """(B, 3, 16, 16) to four classes: a parameter of its own is added to what a layer answers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.places = nn.Parameter(torch.randn(1, 1, 16, 16))

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x) + self.places)))).mean((1, 2))


def test_a_parameter_that_stops_a_cut_is_told_by_its_name(rows):
    found, _ = rows(Places, ratio=0.5)
    assert found["a"].note.startswith("places runs along its channels")


def test_a_ratio_that_the_multiple_does_not_allow_is_amber(rows):
    found, _ = rows(OneOut, ratio=0.9)
    assert [(found[name].ok, found[name].skipped) for name in ("c1", "c2", "c3")] == [(False, False)] * 3
    assert [found[name].done[-16:] for name in ("c1", "c3")] == [
        "(50.0\N{NO-BREAK SPACE}% removed)",
        "(33.3\N{NO-BREAK SPACE}% removed)",
    ]
    assert all("8 is the least multiple" in found[name].note for name in ("c1", "c2", "c3"))
    assert found["c2"].done == "all its outputs stay; 8 of 16 inputs stay"


@pytest.mark.parametrize(("ratio", "ok"), [(0.5, True), (0.46, True), (0.44, False), (0.56, False)])
def test_within_a_tenth_of_what_was_asked_is_reached(mlp, apply_steps, ratio, ok):
    _, (first, last) = apply_steps(mlp, ("structured_pruning", {**EIGHTS, "ratio": ratio}))
    assert first.done == "24 of 48 neurons stay (50.0\N{NO-BREAK SPACE}% removed)"
    assert first.ok is ok
    assert last.ok


def test_heads_that_share_one_key_cannot_leave(bench, tiny, tmp_path, apply_steps):
    tiny("LlamaForCausalLM", "llama", intermediate_size=48).save_pretrained(tmp_path / "m")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "m"))
    _, outcomes = apply_steps((bench.out, facts), ("structured_pruning", {"ratio": 0.5, "cut": "both"}))
    found = {row.layer: row for row in outcomes}
    assert list(found) == [layer.name for layer in facts.layers if layer.kind == "linear"]
    assert "multi-query" in found["model.layers.0.self_attn.q_proj"].note
    assert found["model.layers.1.mlp.gate_proj"].ok
    assert found["model.layers.1.mlp.down_proj"].ok
    assert "outside the blocks" in found["lm_head"].note
    _, outcomes = apply_steps((bench.out, facts), ("structured_pruning", {"ratio": 0.5}))
    assert {row.layer: row for row in outcomes}["model.layers.0.self_attn.q_proj"].asked == "nothing"


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
def test_a_pattern_that_no_group_fits_is_red(inspected, apply_steps, pattern):
    folder, facts = inspected(nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 1), nn.ReLU(), nn.Linear(1, 2)))
    _, outcomes = apply_steps((folder, facts), ("magnitude_pruning", {"pattern": pattern}))
    assert [(row.ok, row.skipped) for row in outcomes] == [(True, False), (False, False), (False, True)]
    assert all("are not groups of" in row.note for row in outcomes[1:])


def test_a_rank_that_holds_much_less_than_asked_is_amber(inspected, apply_steps):
    checkpoint = inspected(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 64)))
    _, (first, _) = apply_steps(checkpoint, ("low_rank", {"ratio": 0.5}))
    assert not first.ok
    assert "the next higher rank holds" in first.note


def test_a_step_that_changed_nothing_leaves_no_green_verdict(tmp_path, mlp):
    steps = ("magnitude_pruning", {"sparsity": 0.5}), ("magnitude_pruning", {"sparsity": 0.25})
    receipt = Run(tmp_path, mlp).run(*steps)["receipt"]
    assert [step["changed"] for step in receipt["steps"]] == [True, False]
    assert receipt["shortfall"] == "Step 2 (Magnitude pruning) changed nothing."
    assert receipt["shortfall"] in render_text(receipt)


def test_what_is_not_as_asked_is_counted(tmp_path, mlp):
    receipt = Run(tmp_path, mlp).run(("low_rank", {"by": "rank", "rank": 10}))["receipt"]
    assert receipt["shortfall"] == "Requested vs. achieved, 2 rows: 1 not done."
    (tmp_path / "again").mkdir()
    assert Run(tmp_path / "again", mlp).run(("weight_quantization", {"bits": 4}))["receipt"]["shortfall"] is None
