"""Everything that multiplies is a layer: transposed and 3-D convolutions, recurrent matrices, stacks of experts."""

import pytest
import torch
from torch import nn

from tests.engine.importers.exported_program.exported import export
from webapp.engine.architectures.build import build
from webapp.engine.exporters import exporters
from webapp.engine.facts import Layout
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import held_by, predict, unreached
from webapp.engine.run.proof import compare_probe, write_proof
from webapp.engine.techniques.calibration.matrices import columns_of, inputs_as_rows
from webapp.engine.weights.artifact import read_model, write_model

PRUNED = ("magnitude_pruning", {"sparsity": 0.5})


class Answers(nn.Module):
    """A recurrent layer whose last answer is classified."""

    def __init__(self, kind, **more):
        super().__init__()
        self.rnn, self.out = kind(12, 24, batch_first=True, **more), nn.LazyLinear(3)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


class Mixture(nn.Module):
    """Four experts (B, 12) -> (B, 3), each of which answers; stacked as (experts, in, out) or (experts, out, in)."""

    def __init__(self, inputs_first):
        super().__init__()
        shapes = [(12, 20), (20, 12)] if inputs_first else [(20, 12), (12, 20)]
        self.up, self.down = (nn.Parameter(torch.randn(4, *shape)) for shape in shapes)
        self.router, self.out, self.inputs_first = nn.Linear(12, 4), nn.Linear(12, 3), inputs_first

    def forward(self, x):
        shares = self.router(x).softmax(-1)[..., None]
        if self.inputs_first:
            answers = torch.einsum("beo,eoi->bei", torch.einsum("bi,eio->beo", x, self.up).relu(), self.down)
        else:
            answers = torch.stack([(x @ self.up[e].t()).relu() @ self.down[e].t() for e in range(4)], 1)
        return self.out((answers * shares).sum(1))


class Mean(nn.Module):
    def forward(self, x):
        return x.flatten(2).mean(2)


def flat(*layers):
    return nn.Sequential(*layers, Mean(), nn.LazyLinear(3))


MADE = {  # name -> module, one sample, the layers' kinds
    "deconvolutions": (
        lambda: flat(
            nn.ConvTranspose2d(3, 6, 4, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose2d(6, 8, 2, groups=2)
        ),
        (3, 4, 4),
        ["conv", "conv", "linear"],
    ),
    "lines": (
        lambda: flat(
            nn.Conv1d(2, 6, 3), nn.ReLU(), nn.ConvTranspose1d(6, 4, 3, stride=2, output_padding=1, bias=False)
        ),
        (2, 8),
        ["conv", "conv", "linear"],
    ),
    "volumes": (
        lambda: flat(nn.Conv3d(2, 6, 3, padding=1), nn.ReLU(), nn.ConvTranspose3d(6, 8, 3, dilation=2, groups=2)),
        (2, 4, 4, 4),
        ["conv", "conv", "linear"],
    ),
    "lstm": (lambda: Answers(nn.LSTM, bidirectional=True, proj_size=7), (3, 12), ["recurrent"] * 6 + ["linear"]),
    "gru": (lambda: Answers(nn.GRU, num_layers=2, bidirectional=True), (5, 12), ["recurrent"] * 8 + ["linear"]),
    "rnn": (lambda: Answers(nn.RNN, nonlinearity="relu"), (5, 12), ["recurrent"] * 2 + ["linear"]),
    "experts": (lambda: Mixture(False), (12,), ["experts"] * 2 + ["linear"] * 2),
    "experts_inputs_first": (lambda: Mixture(True), (12,), ["experts"] * 2 + ["linear"] * 2),
}


@pytest.fixture
def checkpoint(bench, tmp_path):
    """A module of MADE as an exported program: its folder and its facts."""

    def made(name):
        torch.manual_seed(0)
        module, sample = MADE[name][0]().eval(), torch.randn(2, *MADE[name][1])
        module(sample)  # what is lazy has its widths now
        facts = bench.checkpoint(export(module, (sample,), tmp_path / f"{name}.pt2"))
        return bench.out, facts

    return made


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch's own, of how it runs them
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow) if n in ("lines", "rnn", "gru", "experts_inputs_first") else n
        for n in MADE
    ],
)
def test_it_is_pruned_and_quantized_and_proven_in_every_format(checkpoint, apply_steps, tmp_path, name):
    folder, facts = checkpoint(name)
    assert [layer.kind for layer in facts.layers] == MADE[name][2]
    steps = [PRUNED, ("weight_quantization", {"bits": 4, "granularity": "group", "group_size": 16, "symmetric": False})]
    model, outcomes = apply_steps((folder, facts), *steps)
    assert all(outcome.ok and "int4" in outcome.done for outcome in outcomes)
    matrices = [model.weights[layer.weight].plan for layer in facts.layers]
    assert sum(plan.bytes for plan in matrices) < 0.4 * sum(4 * plan.size for plan in matrices)
    assert write_model(model, tmp_path / "m.safetensors") <= 1.02 * (
        predict(facts, Recipe.read({"steps": [{"technique": n, "settings": s} for n, s in steps]})).after.size_bytes
    )
    model = read_model(tmp_path / "m.safetensors")
    write_proof(model, tmp_path, 1)
    for form in ("program", "onnx"):
        (tmp_path / form).mkdir()
        exporters()[form].write(model, tmp_path / form)
        proof = compare_probe(exporters()[form].load(tmp_path / form, facts.architecture), facts.architecture, tmp_path)
        assert proof["agreed"], form


@pytest.mark.parametrize(
    ("layout", "shape", "row", "of_row"),
    [
        (Layout(), (6, 4, 3, 3), 5, lambda w: w[5]),
        (Layout(True), (4, 6), 5, lambda w: w[:, 5]),
        (Layout(True), (4, 6, 3, 2), 5, lambda w: w[:, 5]),
        (Layout(True, 2), (4, 3, 3), 5, lambda w: w[2:, 2]),  # the last output of the second group
        (Layout(False, 4, True), (4, 6, 5), 7, lambda w: w[1, 1]),
        (Layout(True, 4, True), (4, 5, 6), 7, lambda w: w[1, :, 1]),
    ],
)
def test_a_row_of_the_matrix_is_an_output_with_all_that_it_is_made_of(layout, shape, row, of_row):
    weight = torch.randn(shape)
    matrix = layout.matrix(weight)
    assert len(matrix) == layout.rows(shape)
    assert torch.equal(matrix[row], of_row(weight).flatten())
    assert torch.equal(layout.weight(matrix, shape), weight)
    assert Layout.of(layout.meta).matrix(weight).shape == matrix.shape or not layout.transposed


@pytest.mark.parametrize(
    ("part", "places"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, dilation=2, groups=2), (11,)),
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=1, padding_mode="circular"), (5, 6)),
        (nn.Conv3d(4, 6, 2, padding=1, groups=2), (3, 4, 5)),
        (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (5,)),
        (nn.ConvTranspose2d(4, 6, (3, 4), stride=(2, 3), padding=(1, 2), dilation=(2, 1), groups=2), (4, 3)),
        (nn.ConvTranspose3d(4, 6, 2, stride=2), (2, 3, 2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_the_rows_that_calibration_sees_times_the_matrix_are_what_a_convolution_answers(part, places):
    x = torch.randn(2, 4, *places)
    layout = Layout(isinstance(part, nn.modules.conv._ConvTransposeNd), part.groups)
    rows = inputs_as_rows(part, x, part.groups, None)
    assert rows.shape[2] == columns_of(part)
    matrix = layout.matrix(part.weight).reshape(part.groups, -1, rows.shape[2])
    answers = torch.einsum("ngc,goc->ngo", rows, matrix).flatten(1) + part.bias
    expected = part(x).flatten(2).transpose(1, 2).reshape(-1, 6)
    torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("convolutions", "form", "method"),
    [
        ("tucker", "pivots", "plain"),
        ("spatial", "pivots", "whitened"),
        ("matrix", "pivots", "whitened"),
        ("matrix", "factors", "plain"),
    ],
)
def test_a_transposed_convolution_becomes_factors_that_answer_as_they_decode(
    apply_steps, given_batches, checkpoint, convolutions, form, method
):
    folder, facts = checkpoint("deconvolutions")
    settings = {"by": "ratio", "ratio": 0.7, "convolutions": convolutions, "form": form, "method": method}
    data = given_batches(facts.architecture)
    model, outcomes = apply_steps((folder, facts), ("low_rank", settings, {"include": ["0", "2"]}), data=data)
    first, grouped = outcomes
    assert not first.skipped, first.note
    assert (grouped.skipped, "in 2 groups" in grouped.note) == (True, True)
    whole = build(model)
    x = torch.randn(2, 3, 4, 4)
    weight = model.weights["0.weight"]
    assert weight.plan.params < 0.7 * weight.plan.size + 1
    bias = model.weights["0.bias"].decode()
    expected = nn.functional.conv_transpose2d(x, weight.decode(), bias, stride=2, padding=1)
    torch.testing.assert_close(whole.get_submodule("0")(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "case"),
    [("gptq", "volumes"), ("gptq", "rnn"), ("sparsegpt", "deconvolutions"), ("awq", "experts"), ("wanda", "rnn")],
)
def test_what_calibrates_takes_each_and_says_where_it_saw_no_inputs(checkpoint, apply_steps, given_batches, name, case):
    folder, facts = checkpoint(case)
    _, outcomes = apply_steps((folder, facts), (name, {}), data=given_batches(facts.architecture))
    seen = [outcome for layer, outcome in zip(facts.layers, outcomes, strict=True) if layer.kind in ("conv", "linear")]
    assert all("not seen" not in outcome.note and not outcome.skipped for outcome in seen)
    for layer, outcome in zip(facts.layers, outcomes, strict=True):
        if layer.kind in ("recurrent", "experts"):
            assert (outcome.ok, outcome.skipped) == (False, False)
            assert "not seen" in outcome.note
            assert ("rounded to nearest" if name in ("gptq", "awq") else "magnitude") in outcome.note


def test_gptq_on_transposed_convolutions_loses_less_than_rounding(checkpoint, apply_steps, given_batches):
    folder, facts = checkpoint("deconvolutions")
    data, settings = given_batches(facts.architecture), {"bits": 3, "granularity": "channel"}
    original, x = build(apply_steps((folder, facts))[0]), data.batches[0].inputs["x"]
    lost = [
        (build(apply_steps((folder, facts), (name, settings), data=data)[0])(x) - original(x)).norm()
        for name in ("gptq", "weight_quantization")
    ]
    assert lost[0] < lost[1]


def test_what_no_step_reaches_has_its_share_of_the_bytes(inspected):
    torch.manual_seed(0)
    state = {
        "tokens.weight": torch.randn(50, 16),
        "pos_embed": torch.randn(1, 20, 16),
        "cls_token": torch.randn(1, 1, 16),
        "fc.weight": torch.randn(40, 16),
        "fc.bias": torch.randn(40),
    }
    _, facts = inspected(state)
    assert {layer.name: layer.kind for layer in facts.layers} == {"tokens": "embedding", "fc": "linear"}
    in_no_layer = unreached(held_by(facts), facts.weights_bytes)
    assert [row.what for row in in_no_layer] == ["pos_embed", "cls_token", "fc.bias"]
    assert in_no_layer[0].share == pytest.approx(4 * 320 / facts.weights_bytes)

    def left(*techniques):
        return predict(facts, Recipe.read({"steps": [{"technique": name} for name in techniques]})).unreached

    pruned = left("magnitude_pruning")
    assert [row.what for row in pruned] == ["tokens.weight", "pos_embed", "cls_token", "fc.bias"]
    assert "this is one of the embeddings" in pruned[0].why
    assert [row.what for row in left("magnitude_pruning", "weight_quantization")] == [
        "pos_embed",
        "cls_token",
        "fc.bias",
    ]
    assert left("magnitude_pruning", "cast") == []


@pytest.mark.parametrize(
    ("name", "shape", "bias", "expected"),
    [
        ("rnn.weight_hh_l0_reverse", (24, 8), None, ("recurrent", False, 1)),
        ("moe.experts.down_proj", (4, 8, 6), None, ("experts", False, 4)),
        ("stem.weight", (8, 3, 3, 3, 3), 8, ("conv", False, 1)),
        ("up.weight", (8, 3, 2, 2), 3, ("conv", True, 1)),
        ("up.weight", (8, 3, 2), 6, ("conv", True, 2)),
        ("deconv.weight", (8, 8, 2, 2), 8, ("conv", True, 1)),
        ("conv.weight", (8, 8, 2, 2), 8, ("conv", False, 1)),
        ("encoder.layers.0.relative_position_bias_table", (49, 4), None, ("embedding", False, 1)),
        ("positional_embedding", (49, 4), None, ("embedding", False, 1)),
        ("patch_embed.proj.weight", (8, 3, 4, 4), 8, ("conv", False, 1)),
    ],
)
def test_without_a_module_names_and_shapes_tell(inspected, name, shape, bias, expected):
    state = {name: torch.randn(shape)} | ({name.replace("weight", "bias"): torch.randn(bias)} if bias else {})
    _, facts = inspected(state)
    (layer,) = facts.layers
    assert (layer.kind, layer.transposed, layer.groups) == expected


@pytest.fixture
def mixture(bench, save_tokenizer, tmp_path):
    """A tiny language model of experts, as transformers stacks them; no token is sent to expert 3 of gpt-oss."""

    def made(kind):
        import transformers

        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.AutoConfig.for_model(
            kind, **sizes, head_dim=16, num_key_value_heads=1, vocab_size=40, num_local_experts=5, num_experts_per_tok=2
        )
        config.rope_parameters = {"rope_type": "default", "rope_theta": 10_000.0}
        module = transformers.AutoModelForCausalLM.from_config(config).eval()
        for name, parameter in module.named_parameters():
            parameter.data.fill_(1.0) if "norm" in name else parameter.data.normal_(0, 0.3)
            if name.endswith("router.bias"):
                parameter.data[3] = -1000
        module.save_pretrained(tmp_path / kind)
        save_tokenizer(tmp_path / kind)
        facts = bench.checkpoint(bench.zip_folder(tmp_path / kind))
        return bench.out, facts

    return made


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_experts_are_calibrated_each_on_what_the_router_sends_to_it(mixture, apply_steps, given_batches, kind):
    folder, facts = mixture(kind)
    stacks = [layer for layer in facts.layers if layer.kind == "experts"]
    assert [(layer.groups, layer.transposed) for layer in stacks] == [(5, kind == "gpt_oss")] * 2
    data, only = given_batches(facts.architecture), {"include": ["*.experts.*"]}
    settings, batch = {"bits": 3, "granularity": "channel"}, data.batches[0].inputs
    models = [
        apply_steps((folder, facts), *steps, data=data)
        for steps in ([], [("gptq", settings, only)], [("weight_quantization", settings, only)])
    ]
    original, calibrated, rounded = (build(model)(**batch, use_cache=False)["logits"] for model, _ in models)
    assert (calibrated - original).norm() < (rounded - original).norm()
    unseen = ["no calibration sample reached expert 3, so it was rounded to nearest"] * 2
    assert [outcome.note for outcome in models[1][1]] == (unseen if kind == "gpt_oss" else ["", ""])
    expected = models[2][0].weights[stacks[0].weight].decode()[3]
    assert torch.equal(models[1][0].weights[stacks[0].weight].decode()[3], expected) == (kind == "gpt_oss")


def test_experts_are_pruned_each_on_what_the_router_sends_to_it(mixture, apply_steps, given_batches, tmp_path):
    folder, facts = mixture("gpt_oss")
    step = ("wanda", {"sparsity": 0.4321}, {"include": ["*.experts.*"]})
    model, outcomes = apply_steps((folder, facts), step, data=given_batches(facts.architecture))
    told = predict(facts, Recipe.read({"steps": [dict(zip(("technique", "settings", "layers"), step, strict=True))]}))
    assert told.exact
    assert write_model(model, tmp_path / "model.safetensors") == told.after.size_bytes
    assert all("expert 3, so magnitude decided" in outcome.note for outcome in outcomes)
    for layer in facts.layers:
        if layer.kind == "experts":
            zeros = (model.weights[layer.weight].decode() == 0).float().mean((1, 2))
            assert zeros == pytest.approx(0.4321, abs=0.03)
