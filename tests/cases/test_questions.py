"""SmolLM2-135M-Instruct judged by multiple-choice questions, as lm-evaluation-harness puts them."""

import json

import pytest

from tests.cases.conftest import uploaded

ASKED = (  # what follows, and what does not
    ("The capital of France is", ["Paris.", "a banana.", "seven."]),
    ("Water freezes when it gets very", ["cold.", "loud.", "purple."]),
    ("The opposite of hot is", ["cold.", "table.", "running."]),
    ("She opened the door with a", ["key.", "cloud.", "Tuesday."]),
    ("Two plus two equals", ["four.", "green.", "slowly."]),
    ("At night the sky is", ["dark.", "a spoon.", "delicious."]),
    ("Dogs like to chase", ["cats.", "mathematics.", "the alphabet."]),
    ("He was hungry, so he", ["ate a sandwich.", "ate a mountain range.", "ate the year 1984."]),
    ("The sun rises in the", ["east.", "drawer.", "soup."]),
    ("To write a letter you need a", ["pen.", "waterfall.", "thunderstorm."]),
)


@pytest.fixture(scope="session")
def questions(api, tmp_path_factory) -> str:
    """The right choice goes round, so that the first alone would not win."""
    path = tmp_path_factory.mktemp("questions") / "plain-sense.jsonl"
    with path.open("w", encoding="utf8") as file:
        for number, (context, choices) in enumerate(ASKED):
            turned = choices[-(number % 3) :] + choices[: -(number % 3)] if number % 3 else choices
            file.write(json.dumps({"context": context, "choices": turned, "answer": number % 3}) + "\n")
    return uploaded(api, "datasets", path, "all")


def test_8_bits_choose_as_the_original_does(smollm2, questions, compressed):
    steps = {"technique": "weight_quantization", "settings": {"bits": 8}}
    run, _ = compressed(smollm2, steps, data=questions)
    before, after = (run[which]["metrics"] for which in ("baseline", "result"))
    assert before["accuracy"]["n"] == after["accuracy"]["n"] == len(ASKED)
    assert before["accuracy"]["value"] >= 0.9
    assert after["agreement"]["value"] >= 0.9
    assert after["kl_divergence"]["value"] < 0.01
