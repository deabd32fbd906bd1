"""Prompts of one's own: each side writes what its own module writes greedily, and it is said where they part."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers.utils.chat_template_utils import render_jinja_template

from tests import zoo
from tests.engine.run.test_stages import Bench
from webapp.engine.architectures.build import build
from webapp.engine.errors import RecipeInvalid
from webapp.engine.run.stages import plan_stages
from webapp.engine.run.stages.base import SourceDigests
from webapp.engine.run.stages.job import PromptSet
from webapp.engine.run.stages.prompts import chat_tokens, continued, same_tokens, set_name
from webapp.engine.weights.artifact import read_model

TWO_BITS = ("weight_quantization", {"bits": 2})
NONE = frozenset[int]()


def asked(*texts, tokens=12):
    return {"prompts": (PromptSet(texts=texts, max_tokens=tokens),)}


def answered(tmp_path, checkpoint, options):
    run = Bench(tmp_path, checkpoint, options=options)
    run.run(TWO_BITS)
    return run, next(facts for name, facts in run.facts.items() if name.startswith("prompts-"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_write_what_their_modules_write_greedily(tmp_path, dtype):
    checkpoint = zoo.checkpoint("llama", dtype)
    run, facts = answered(tmp_path, checkpoint, asked("the cat sat on", "a dog"))
    first = facts["answers"][0]
    assert first["prompt"] == "the cat sat on"
    module = build(read_model(run.artifact))
    ids = torch.tensor([[4, 6, 8, 10]])
    expected = module.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)[0, 4:]
    told = continued(module, [4, 6, 8, 10], 12, NONE)
    assert told == (expected.tolist(), "length")
    assert len(first["result"]["tokens"]) == 12 or first["result"]["ended"] == "stop"
    assert 0 <= first["same"] <= 12
    pairs = list(zip(first["original"]["tokens"], first["result"]["tokens"], strict=False))
    assert all(one == other for one, other in pairs[: first["same"]])


def test_a_module_that_keeps_nothing_reads_the_text_again():
    module = build(zoo.model("llama"))

    class Forgetful:
        def __call__(self, input_ids, use_cache):
            return self.forward(input_ids)

        def forward(self, input_ids):
            return {"logits": module(input_ids=input_ids, use_cache=False)["logits"]}

    assert continued(Forgetful(), [4, 6], 8, NONE) == continued(module, [4, 6], 8, NONE)


def test_it_ends_where_the_model_says_so():
    module = build(zoo.model("llama"))
    whole, _ = continued(module, [4, 6], 8, NONE)
    assert continued(module, [4, 6], 8, frozenset({whole[3]})) == (whole[: whole.index(whole[3])], "stop")


def test_what_was_answered_is_not_done_again_and_the_measurements_stay(tmp_path):
    run = Bench(tmp_path, zoo.checkpoint("llama"))
    sources = SourceDigests("c")
    before = {name: stage.key(sources) for name, stage in plan_stages(run.asked(TWO_BITS)).items()}
    run.options = {"prompts": (PromptSet(texts=("a",), max_tokens=1), PromptSet(texts=("a", "the"), max_tokens=1))}
    after = {name: stage.key(sources) for name, stage in plan_stages(run.asked(TWO_BITS)).items()}
    assert after.items() >= before.items()
    assert len(set(after.values())) == len(before) + 2


@pytest.mark.parametrize(
    ("family", "text", "said"),
    [("mlp", "a", "by language models"), ("llama", "the cat " * 40, "Shorten it"), ("llama", " ", "makes no token")],
)
def test_what_cannot_be_answered_is_said(tmp_path, family, text, said):
    with pytest.raises(RecipeInvalid, match=said):
        Bench(tmp_path, zoo.checkpoint(family), options=asked(text)).run(TWO_BITS)


TEMPLATE = "{% for m in messages %}{{ m['content'] }} the {% endfor %}{% if add_generation_prompt %}cat{% endif %}"


def test_a_chat_is_put_in_the_template_of_the_models_own_tokenizer(tmp_path):
    folder = shutil.copytree(zoo.checkpoint("llama")[0], tmp_path / "chat")
    settings = folder / "tokenizer_config.json"
    told = json.loads(settings.read_text(encoding="utf8")) if settings.exists() else {}
    settings.write_text(json.dumps(told | {"chat_template": TEMPLATE}), encoding="utf8")
    checkpoint = (folder, zoo.checkpoint("llama")[1])
    chat = {"prompts": (PromptSet(texts=("a dog",), max_tokens=6, chat=True),)}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    _, talked = answered(tmp_path / "one", checkpoint, chat)
    _, plain = answered(tmp_path / "two", checkpoint, asked("a dog the cat", tokens=6))
    assert talked["answers"][0]["prompt"] == "a dog"
    assert talked["answers"][0]["original"] == plain["answers"][0]["original"]


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no') }}", "{% for x in range(10**12) %}a{% endfor %}", "{{ x"]
)
def test_a_template_that_cannot_be_applied_is_said(template):
    tokenizer = SimpleNamespace(chat_template=template)
    tokenizer.apply_chat_template = lambda said, **_: render_jinja_template([said], chat_template=template)[0]
    with pytest.raises(RecipeInvalid, match="cannot be applied"):
        chat_tokens(tokenizer, "a dog")


def test_sets_keep_the_names_that_they_had_before_there_were_chats():
    assert PromptSet(texts=("a",), max_tokens=1).row == {"texts": ["a"], "max_tokens": 1}
    assert set_name(PromptSet(texts=("a",), max_tokens=1)) != set_name(PromptSet(texts=("a",), max_tokens=1, chat=True))


def test_how_far_two_go_together():
    assert (same_tokens([1, 2, 3], [1, 2, 4]), same_tokens([1], [1, 2]), same_tokens([], [1])) == (2, 1, 0)
