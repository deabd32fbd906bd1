"""Fused layers, stacks of experts and stages: what is cut is what the library's own module of the new config has."""

import pytest
import torch

from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.progress import Silent
from webapp.engine.recipe import StepSettings
from webapp.engine.techniques import Context, techniques
from webapp.engine.techniques.base import LEFT
from webapp.engine.techniques.surgery import look_at
from webapp.engine.weights import Dense
from webapp.engine.weights.model import Model

WIDE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
GROUPED = {**WIDE, "intermediate_size": 32, "num_key_value_heads": 2, "max_position_embeddings": 32}
TYPES = {  # class, config, groups by key
    "phi3": ("Phi3ForCausalLM", {**GROUPED, "pad_token_id": 0}, {"intermediate_size": 2, "num_attention_heads": 2}),
    "glm": (
        "GlmForCausalLM",
        {**GROUPED, "head_dim": 4, "pad_token_id": 0},
        {"intermediate_size": 2, "num_attention_heads": 2},
    ),
    "mixtral": (
        "MixtralForCausalLM",
        {**GROUPED, "num_local_experts": 3},
        {"intermediate_size": 2, "num_attention_heads": 2},
    ),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        {
            **GROUPED,
            "num_experts": 3,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 20,
        },
        {"moe_intermediate_size": 2, "shared_expert_intermediate_size": 2},
    ),
    "olmoe": ("OlmoeForCausalLM", {**GROUPED, "num_experts": 3, "num_experts_per_tok": 2}, {"intermediate_size": 2}),
    "deepseek_v3": (  # a dense block, and shared experts as wide as the others
        "DeepseekV3ForCausalLM",
        {
            **WIDE,
            "num_hidden_layers": 3,
            "intermediate_size": 48,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 56,
            "first_k_dense_replace": 1,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 4,
        },
        {"intermediate_size": 1, "moe_intermediate_size": 4},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", {**GROUPED}, {"intermediate_size": 2}),
    "convnext": (
        "ConvNextForImageClassification",
        {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2, "image_size": 32},
        {"hidden_sizes.0": 2, "hidden_sizes.1": 3},
    ),
    "convnextv2": (
        "ConvNextV2ForImageClassification",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 32},
        {"hidden_sizes.0": 2, "hidden_sizes.1": 2},
    ),
}


QUICK = ("phi3", "mixtral", "convnext")


@pytest.fixture(params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TYPES])
def checkpoint(request, bench, tmp_path):
    import transformers

    name, config, groups = TYPES[request.param]
    torch.manual_seed(0)
    module = getattr(transformers, name)(transformers.AutoConfig.for_model(request.param, **config))
    module.to(torch.bfloat16).save_pretrained(tmp_path / "m")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "m"))
    return (bench.out, facts), groups


def answer(model):
    with torch.inference_mode():
        return outputs(build(model), model.architecture, synthetic(model.architecture, 3)).float()


def test_the_groups_are_those_that_the_config_can_hold(checkpoint):
    (_, facts), wanted = checkpoint
    found: dict[str, int] = {}
    for group in look_at(facts).groups:
        found[group.key] = found.get(group.key, 0) + 1
    assert wanted.items() <= found.items()


@pytest.mark.parametrize("name", ["structured_pruning", "smaller_student"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_half_of_it_runs_in_the_library_s_own_module(checkpoint, apply_steps, given_batches, name, calibrated):
    (folder, facts), groups = checkpoint
    if name == "smaller_student" and calibrated:
        pytest.skip("a student is made without data")
    settings = {"ratio": 0.5, "round_to": 2} if name == "structured_pruning" else {"width": 0.5, "round_to": 2}
    if "num_attention_heads" in groups:
        settings |= {"cut": "both"} if name == "structured_pruning" else {"heads": 0.5}
    data = given_batches(facts.architecture) if calibrated else None
    model, rows = apply_steps((folder, facts), (name, settings), data=data)
    chosen = [layer.name for layer in facts.layers if layer.kind in techniques()[name].layers]
    assert {row.layer for row in rows} == set(chosen)
    for row in rows:
        weight = next(layer.weight for layer in facts.layers if layer.name == row.layer)
        assert (model.weights[weight].shape != facts.tensor(weight).shape) == (row.done != LEFT)
    assert model.bytes < 0.85 * Model.of_checkpoint(folder, facts).bytes
    assert answer(model).isfinite().all()


def test_neurons_that_do_nothing_leave_and_no_answer_changes(checkpoint, apply_steps):
    """Every second neuron of each group, another half in each expert, is switched off first: those are what leaves."""
    (folder, facts), _ = checkpoint
    groups = [group for group in look_at(facts).groups if group.kind == "neurons" and group.times == 1]
    if not groups:
        pytest.skip("its neurons leave with the channels of their stage")
    model = Model.of_checkpoint(folder, facts)
    for group in groups:
        for member in group.of_role("makes") + group.of_role("scales"):
            values = model.weights[member.tensor].decode().clone()
            for number, own in enumerate(values if group.stacked else [values]):
                places = member.places(torch.arange(number % 2, group.width, 2))
                own.index_fill_(member.dim - group.stacked, places, 0.0)
            model.weights[member.tensor] = Dense(values)
    before = answer(model)
    step = techniques()["structured_pruning"]
    layers = [layer for layer in facts.layers if layer.kind in step.layers]
    asked = StepSettings(step.Settings(ratio=0.5, round_to=1))
    step.apply(model, asked, Context(layers, 0, Silent(), facts=facts))
    assert torch.allclose(answer(model), before, atol=0.02 * float(before.abs().max()))
    assert all(model.weights[w].shape != facts.tensor(w).shape for group in groups for w in group.makers)


def test_what_stays_has_a_reason(checkpoint):
    (_, facts), _ = checkpoint
    made = {weight for group in look_at(facts).groups for weight in group.widths}
    for layer in facts.layers:
        if layer.kind in ("linear", "experts") and layer.weight not in made:
            assert look_at(facts).why_not(layer.weight)
