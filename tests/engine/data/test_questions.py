"""Multiple-choice questions: read under every benchmark's names, and judged as lm-evaluation-harness does."""

import json

import pytest
import torch

from webapp.engine.data.batches import batches, outputs
from webapp.engine.data.datasets import open_dataset
from webapp.engine.data.questions import Question, Questions, tokens_of
from webapp.engine.errors import DatasetUnfit
from webapp.engine.facts import ArchitectureSpec
from webapp.engine.progress import Silent
from webapp.engine.run.measure import choice_likelihoods, evaluate

SPEC = ArchitectureSpec(
    family="transformers", title="LlamaForCausalLM", task="causal-lm", config={}, inputs={"tokens": 64, "vocab": 40}
)
ASKED = [
    Question("the cat", ("sat on the mat", "ran"), 0),
    Question("a dog ", ("good", "bad dog ran .", "the"), 1),
    Question("", ("the cat", "a dog"), 0),
]


def jsonl(bench, *rows):
    return bench.file("q.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def questions(bench, *rows):
    facts = bench.dataset(jsonl(bench, *rows), split="all")
    assert facts.kind == "multiple-choice"
    return list(open_dataset(bench.out, facts).evaluation().questions)


@pytest.mark.parametrize(
    "row",
    [
        {"ctx": "He", "endings": ["sat", "ran"], "label": "1", "ind": 4},  # HellaSwag
        {"context": "He", "choices": ["sat", "ran"], "answer": "B"},
        {"context": "He", "choices": {"text": ["sat", "ran"], "label": ["A", "B"]}, "answerKey": "B"},
        {"context": "He", "choices": {"text": ["sat", "ran"], "label": ["1", "2"]}, "answerKey": "2"},  # ARC's other
        {"context": "He", "options": ["sat", "ran"], "answer": "ran"},
    ],
)
def test_the_benchmarks_names_are_known(bench, row):
    assert questions(bench, row) == [Question("He", ("sat", "ran"), 1)]


def test_a_question_is_put_as_one(bench):
    row = {"question": "Who?", "choices": ["me", "you"], "answer": 0}
    assert questions(bench, row)[0].context == "Question: Who?\nAnswer:"
    both = questions(bench, row | {"context": "We met."})
    assert both[0].context == "We met.\nQuestion: Who?\nAnswer:"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"question": 3, "choices": ["a", "b"], "answer": 0}, "line 1 of q.jsonl has no question or context"),
        ({"question": "q", "choices": "ab", "answer": 0}, "line 1 of q.jsonl has no choices"),
        ({"question": "q", "choices": ["a", ""], "answer": 0}, "none of them empty"),
        ({"question": "q", "choices": ["a"], "answer": 0}, "has 1 choices; a question has 2 to 64"),
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, 'has the answer "2"; it must be'),
        ({"question": "q", "choices": ["a", "b"], "answer": "C"}, "or its letter, A to B"),
        ({"question": "q", "choices": ["a", "b"]}, 'has the answer "None"'),
        ({"question": "q", "choices": ["a", "b"], "answer": True}, 'has the answer "True"'),
    ],
)
def test_what_is_no_question_is_refused_with_its_line(bench, row, sentence):
    assert sentence in bench.dataset_refusal(jsonl(bench, row), "all")


def test_halves_share_no_question(bench):
    rows = [{"context": f"Number {n % 8}", "choices": ["one", "two"], "answer": n % 2} for n in range(10)]
    facts = bench.dataset(jsonl(bench, *rows))
    dataset = open_dataset(bench.out, facts)
    assert (facts.evaluation.n, facts.training.n) == (3, 5)
    assert not set(dataset.training().hashes()) & set(dataset.evaluation().hashes())
    assert facts.samples[0] == {"context": "Number 7", "choices": ["one", "two"], "answer": 1}


@pytest.fixture
def llama(tiny, tmp_path, save_tokenizer):
    from transformers import AutoTokenizer

    save_tokenizer(tmp_path)
    return tiny("LlamaForCausalLM", "llama"), AutoTokenizer.from_pretrained(tmp_path)


def by_hand(module, tokenizer, context, choice):
    """log p(choice | context): token by token, from the whole text, with nothing of ours."""
    ids = tokenizer(f"{context.rstrip()} {choice}", add_special_tokens=False)["input_ids"]
    begin = len(tokenizer(context.rstrip(), add_special_tokens=False)["input_ids"])
    if not context:
        ids, begin = [tokenizer.pad_token_id, *ids], 1
    total = 0.0
    for at in range(begin, len(ids)):
        with torch.no_grad():
            logits = module(torch.tensor([ids[:at]])).logits[0, -1].double()
        total += float(torch.log_softmax(logits, -1)[ids[at]])
    return total


def test_likelihoods_and_both_accuracies_are_those_of_a_hand_computation(llama):
    module, tokenizer = llama
    data = list(batches(Questions(ASKED), SPEC, tokenizer))
    expected = [[by_hand(module, tokenizer, asked.context, choice) for choice in asked.choices] for asked in ASKED]
    for batch, likelihoods in zip(data, expected, strict=True):
        with torch.no_grad():
            assert choice_likelihoods(outputs(module, SPEC, batch), batch).tolist() == pytest.approx(
                likelihoods, abs=1e-4
            )
    scores, _ = evaluate(module, SPEC, data, Silent())
    plain = [max(range(len(of)), key=of.__getitem__) for of in expected]
    normed = [
        max(range(len(of)), key=lambda n, of=of, asked=asked: of[n] / len(asked.choices[n]))
        for of, asked in zip(expected, ASKED, strict=True)
    ]
    assert scores["accuracy"].sums == [float(n == asked.answer) for n, asked in zip(plain, ASKED, strict=True)]
    assert scores["accuracy_norm"].sums == [float(n == asked.answer) for n, asked in zip(normed, ASKED, strict=True)]
    assert plain != normed  # length matters here: both ways are really computed
    assert set(scores) == {"accuracy", "accuracy_norm"}


def test_the_original_agrees_with_itself(llama):
    module, tokenizer = llama
    scores, _ = evaluate(module, SPEC, list(batches(Questions(ASKED), SPEC, tokenizer)), Silent(), reference=module)
    assert scores["agreement"].value("agreement") == 1
    assert scores["kl_divergence"].value("kl_divergence") == pytest.approx(0, abs=1e-9)


def test_what_is_too_long_loses_its_beginning(llama):
    tokenizer = llama[1]
    long = Question("the cat sat on the mat . " * 5, ("good dog", "bad"), 0)
    for tokens, length in tokens_of(long, tokenizer, 8):
        assert len(tokens) == 8
        assert length in (1, 2)
    with pytest.raises(DatasetUnfit, match="takes 2 tokens; the model takes 2 in all"):
        tokens_of(long, tokenizer, 2)


def test_spaces_at_the_end_of_a_context_go_with_the_choice(llama):
    tokenizer = llama[1]
    assert tokens_of(Question("a dog  ", ("ran", "sat"), 0), tokenizer, 64) == tokens_of(
        Question("a dog", ("ran", "sat"), 0), tokenizer, 64
    )


def test_calibration_reads_the_right_answers():
    assert Questions(ASKED[:2]).answered() == "the cat sat on the mat\n\na dog  bad dog ran ."
