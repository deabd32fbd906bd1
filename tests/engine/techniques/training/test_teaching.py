"""Whom a student learns from, and what: the answers, the states on the way to them, and only what fits."""

import pytest
import torch
from torch import nn

from tests.engine.techniques.training.lessons import after, blobs, same, trained, values
from webapp.engine.architectures import architectures
from webapp.engine.architectures.build import build
from webapp.engine.data.datasets import Arrays, LabelledText, Text
from webapp.engine.errors import RecipeInvalid
from webapp.engine.techniques.training.teaching import paired, steps_of
from webapp.engine.weights.model import Model

TEXT = "the cat sat on the mat . a dog ran on a good mat . the bad dog sat on the cat . " * 20


def network(inspected, hidden=48, classes=10, name="teacher"):
    torch.manual_seed(hidden + classes)
    return after(*inspected(nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, classes)), name))


def divergence(teacher, student, x) -> float:
    with torch.no_grad():
        p, q = (torch.log_softmax(build(model)(x), -1) for model in (teacher, student))
    return (p.exp() * (p - q)).sum(-1).mean().item()


@pytest.fixture
def transformer(tiny, bench, save_tokenizer):
    """(model, facts, tokenizer) of a tiny transformer with the words of TEXT."""

    def make(class_name, model_type, **changes):
        source = bench.root / f"{class_name}{len(changes)}"
        tiny(class_name, model_type, **changes).save_pretrained(source)
        save_tokenizer(source)
        facts = bench.checkpoint(bench.zip_folder(source, f"{source.name}.zip"))
        return (
            Model.of_checkpoint(bench.out, facts),
            facts,
            architectures()["transformers"].tokenizer(facts.architecture, bench.out),
        )

    return make


@pytest.mark.parametrize("steps", [[("magnitude_pruning", {"sparsity": 0.9})], [("low_rank", {"ratio": 0.3})]])
def test_it_comes_to_answer_as_its_teacher_without_any_label(mlp, steps):
    teacher, student = after(*mlp), after(*mlp, *steps)
    apart = divergence(teacher, student, blobs(seed=7).x)
    unlabelled = Arrays(blobs().x, None)
    outcome = trained(
        "distillation", student, mlp[1], unlabelled, teacher=teacher, hard_weight=0.0, epochs=10, learning_rate=0.01
    )
    assert outcome.ok
    assert divergence(teacher, student, blobs(seed=7).x) < 0.6 * apart


def test_the_teacher_is_not_changed(mlp):
    teacher = after(*mlp)
    before = values(teacher)
    student = after(*mlp, ("magnitude_pruning", {"sparsity": 0.5}))
    trained("distillation", student, mlp[1], blobs(), teacher=teacher, epochs=1)
    assert same(before, values(teacher))


@pytest.mark.parametrize("by", ["squares", "cosine"])
@pytest.mark.parametrize("hidden", [48, 80])
def test_hidden_states_of_another_width_are_projected_and_nothing_of_it_stays(mlp, inspected, hidden, by):
    student = after(*mlp, ("magnitude_pruning", {"sparsity": 0.9}))
    names = set(student.weights)
    teacher = network(inspected, hidden)
    settings = {"hidden_weight": 10.0, "hidden_by": by, "epochs": 2, "learning_rate": 0.01}
    assert trained("distillation", student, mlp[1], blobs(), teacher=teacher, **settings).ok
    assert set(student.weights) == names
    build(student)


def test_a_teacher_with_other_classes_is_refused_with_both_numbers(mlp, inspected):
    teacher = network(inspected, classes=7)
    with pytest.raises(RecipeInvalid, match=r"has 7 values in its answer, the student .* 10; they have to be the same"):
        trained("distillation", after(*mlp), mlp[1], blobs(), teacher=teacher)


def test_a_teacher_for_another_task_is_refused(mlp, transformer):
    teacher, _, _ = transformer("LlamaForCausalLM", "llama")
    with pytest.raises(RecipeInvalid, match="choose a teacher for the same task"):
        trained("distillation", after(*mlp), mlp[1], blobs(), teacher=teacher)


def test_labels_are_asked_for_only_where_they_count(mlp):
    unlabelled = Arrays(blobs().x, None)
    outcome = trained("distillation", after(*mlp), mlp[1], unlabelled, teacher=after(*mlp), hard_weight=0.1, epochs=1)
    assert "no labels" in outcome.note


@pytest.mark.parametrize(("class_name", "model_type"), [("LlamaForCausalLM", "llama"), ("GPT2LMHeadModel", "gpt2")])
def test_a_language_model_learns_from_text(transformer, class_name, model_type):
    model, facts, tokenizer = transformer(class_name, model_type)
    teacher, _, _ = transformer(class_name, model_type)
    for name in [layer.weight for layer in facts.layers if layer.kind == "linear"]:
        model.weights[name] = type(model.weights[name])(model.weights[name].decode() * 0.5)
    more = {"hidden_weight": 1.0, "attention_weight": 1.0, "epochs": 6, "batch_size": 2, "learning_rate": 0.003}
    outcome = trained("distillation", model, facts, Text(TEXT), teacher=teacher, tokenizer=tokenizer, **more)
    assert outcome.ok, outcome
    assert model.tied == facts.tied


def test_a_student_with_fewer_blocks_and_heads_learns_from_all_of_the_teachers(transformer):
    model, facts, tokenizer = transformer("LlamaForCausalLM", "llama", num_hidden_layers=1, num_attention_heads=1)
    teacher, _, _ = transformer("LlamaForCausalLM", "llama")
    more = {"hidden_weight": 1.0, "attention_weight": 1.0, "epochs": 1, "batch_size": 4}
    outcome = trained("distillation", model, facts, Text(TEXT), teacher=teacher, tokenizer=tokenizer, **more)
    assert outcome.ok, outcome


@pytest.mark.parametrize("half", [Text(TEXT), LabelledText(["the cat sat", "a dog ran on the mat ."] * 20, None)])
def test_an_encoder_follows_the_teachers_embeddings(transformer, half):
    model, facts, tokenizer = transformer("BertModel", "bert")
    teacher, _, _ = transformer("BertModel", "bert", num_hidden_layers=3)
    more = {"hidden_weight": 0.5, "attention_weight": 0.5, "epochs": 2, "learning_rate": 0.003}
    assert trained("distillation", model, facts, half, teacher=teacher, tokenizer=tokenizer, **more).ok


def test_what_has_no_attention_is_told_to_leave_it(mlp):
    with pytest.raises(RecipeInvalid, match="set the weight of attention to 0"):
        trained("distillation", after(*mlp), mlp[1], blobs(), teacher=after(*mlp), attention_weight=1.0)


def test_without_a_teacher_there_is_no_distillation(mlp):
    with pytest.raises(RecipeInvalid, match="needs a teacher"):
        trained("distillation", after(*mlp), mlp[1], blobs())


def test_steps_are_paired_evenly_and_the_last_with_the_last():
    assert paired(2, 6) == [(0, 2), (1, 5)]
    assert paired(3, 3) == [(0, 0), (1, 1), (2, 2)]
    assert paired(4, 2) == [(0, 0), (1, 0), (2, 0), (3, 1)]
    assert paired(3, 0) == []


def test_blocks_are_watched_where_there_are_any_else_all_layers_but_the_last(mlp, transformer):
    assert steps_of(build(after(*mlp, ("low_rank", {"ratio": 0.5})))) == ["0"]
    model, _, _ = transformer("LlamaForCausalLM", "llama")
    assert steps_of(build(model)) == ["model.layers.0", "model.layers.1"]
