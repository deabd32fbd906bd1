"""A dataset's labels become the model's classes by name; what the model does not know is named."""

import json

import pytest

from webapp.engine.data.datasets import class_numbers, fit, open_dataset
from webapp.engine.errors import DatasetUnfit
from webapp.engine.facts import ArchitectureSpec, DatasetFacts, SplitFacts


def model(*names):
    return ArchitectureSpec(
        family="transformers",
        title="Reader",
        task="text-classification",
        config={"id2label": {str(number): name for number, name in enumerate(names)}},
        inputs={"vocab": 9, "tokens": 8},
    )


def dataset(*labels, **more):
    return DatasetFacts(
        kind="labelled-text", split="all", evaluation=SplitFacts(n=2, digest="0"), labels=labels, **more
    )


@pytest.mark.parametrize(
    ("names", "labels", "numbers"),
    [
        (("NEGATIVE", "POSITIVE"), ("negative", "positive"), None),
        (("POSITIVE", "NEGATIVE"), ("negative", "positive"), (1, 0)),
        (("LABEL_0", "LABEL_1"), ("cat", "dog"), None),
        (("dog", "cat", "cow"), ("cat", "cow"), (1, 2)),
        (("great_white shark", "tench, Tinca tinca"), ("Great white shark", "tinca_tinca"), None),
        (("crane, bird", "crane, machine", "bird"), ("bird", "machine"), (2, 1)),
        (("POSITIVE", "NEGATIVE"), ("0", "1"), None),
    ],
)
def test_by_name_where_both_have_names(names, labels, numbers):
    assert class_numbers(model(*names), dataset(*labels)) == numbers


@pytest.mark.parametrize(
    ("names", "labels", "sentence"),
    [
        (("dog", "cat"), ("cat", "horse"), "has the label horse; Reader knows dog, cat. Write the model's names"),
        (("dog", "cat"), ("a", "b"), "has the labels a, b; Reader knows"),
        (("crane, bird", "crane, machine"), ("crane", "machine"), "has the label crane;"),
        (("cat, kitten", "dog"), ("cat", "kitten"), "Several labels of the dataset are the same class"),
    ],
)
def test_what_the_model_does_not_know_is_refused(names, labels, sentence):
    with pytest.raises(DatasetUnfit, match=sentence):
        fit(model(*names), dataset(*labels))


def test_the_labels_that_are_read_are_the_models(tmp_path):
    rows = [{"text": "meow", "label": 0}, {"text": "woof", "label": 1}]
    (tmp_path / "evaluation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    facts = dataset("cat", "dog")
    assert open_dataset(tmp_path, facts).evaluation().labels == [0, 1]
    assert open_dataset(tmp_path, facts, spec=model("dog", "cat")).evaluation().labels == [1, 0]
