"""OpenAI's interface: what is written, where it stops, and what is refused instead of passed over."""

import base64
import json

import numpy as np
import pytest

from tests.serving.small_models import keeper
from tests.serving.small_models import writer as make_writer
from webapp.serving.generation import Sampling, Written, choose, generate
from webapp.serving.model import ServedModel

COMPLETE, CHAT = "/v1/completions", "/v1/chat/completions"


def completed(writer, **more):
    return writer.post(COMPLETE, {"model": "writer", "prompt": "one", "temperature": 0} | more)


def test_a_completion_ends_where_the_model_says_so(writer):
    status, told = completed(writer)
    assert status == 200, told
    assert told["object"] == "text_completion"
    assert told["choices"][0] == {"index": 0, "finish_reason": "stop", "logprobs": None, "text": "two three four"}
    assert told["usage"] == {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}


def test_limits_and_stops(writer):
    assert completed(writer, max_tokens=1)[1]["choices"][0] | {"index": 0} == {
        "index": 0,
        "finish_reason": "length",
        "logprobs": None,
        "text": "two",
    }
    stopped = completed(writer, stop=["ree"])[1]["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == ("two th", "stop")
    assert completed(writer, prompt=[2, 3])[1]["choices"][0]["text"] == "three four"
    assert completed(writer, prompt=["one"])[1]["choices"][0]["text"] == "two three four"


def test_logprobs_of_what_was_written(writer):
    told = completed(writer, logprobs=0)[1]["choices"][0]["logprobs"]
    assert "".join(told["tokens"]) == "two three four"
    assert told["token_logprobs"] == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_chat_goes_through_the_tokenizers_own_template(writer):
    body = {"model": "writer", "messages": [{"role": "user", "content": [{"type": "text", "text": "four"}]}]}
    status, told = writer.post(CHAT, body | {"temperature": 0, "max_completion_tokens": 2})
    assert status == 200, told
    assert told["choices"][0]["message"] == {"role": "assistant", "content": "one two"}
    assert told["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize(("path", "extra"), [(COMPLETE, {"prompt": "one"}), (CHAT, {"messages": [{"role": "user"}]})])
def test_a_stream_is_the_same_text_in_pieces(writer, path, extra):
    body = {"model": "writer", "temperature": 0, "max_tokens": 3, **extra}
    whole = writer.post(path, body)[1]["choices"][0]
    asked = body | {"stream": True, "stream_options": {"include_usage": True}}
    status, headers, raw = writer.send("POST", path, asked)
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    events = [part.removeprefix("data: ") for part in raw.decode().split("\n\n") if part]
    assert events.pop() == "[DONE]"
    parsed = [json.loads(event) for event in events]
    assert parsed.pop()["usage"]["completion_tokens"] == 3
    choices = [part["choices"][0] for part in parsed]
    text = "".join(c["text"] if path == COMPLETE else c["delta"].get("content", "") for c in choices)
    assert text == (whole["text"] if path == COMPLETE else whole["message"]["content"])
    assert choices[-1]["finish_reason"] == whole["finish_reason"]
    assert len(choices) > 3


@pytest.mark.parametrize(
    ("more", "param", "sentence"),
    [
        ({"model": "gpt"}, "model", "There is no model 'gpt' here; there is writer."),
        ({"n": 2}, None, "only one answer"),
        ({"tools": [{}]}, None, "tools is not supported"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"prompt": "one " * 8}, "prompt", "The prompt has 8 tokens; this model's window is 8."),
        ({"prompt": ""}, "prompt", "The prompt is empty"),
        ({"prompt": ["one", "two"]}, "prompt", "one prompt at a time"),
        ({"logprobs": 3}, "logprobs", "0"),
        ({"response_format": {"type": "json_object"}}, None, "response_format can only be text"),
        ({"prompt": [99]}, None, "cannot compute"),
        ({"prompt": [99], "stream": True}, None, "cannot compute"),
    ],
)
def test_what_is_not_done_is_said(writer, more, param, sentence):
    status, told = completed(writer, **more)
    assert status == 400
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert told["error"]["param"] == param
    assert sentence.casefold() in told["error"]["message"].casefold()


def test_other_models_write_nothing(classifier, encoder):
    assert "writes no text" in classifier.post(COMPLETE, {"model": "rows", "prompt": "a"})[1]["error"]["message"]
    assert classifier.get("/v1/models")[1]["data"][0]["id"] == "rows"
    refused = encoder.post(CHAT, {"model": "encoder", "messages": [{"role": "user", "content": "a"}]})
    assert refused[0] == 400


def test_embeddings_are_the_mean_of_the_tokens_and_of_length_1(encoder):
    body = {"model": "encoder", "input": ["one two", "one"]}
    status, told = encoder.post("/v1/embeddings", body)
    assert status == 200, told
    vectors = np.array([row["embedding"] for row in told["data"]])
    assert vectors[0] @ vectors[1] == pytest.approx(0.5**0.5)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1])
    assert told["usage"]["prompt_tokens"] == 3
    packed = encoder.post("/v1/embeddings", body | {"encoding_format": "base64"})[1]["data"][1]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), np.float32) == pytest.approx(vectors[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ServedModel(make_writer(tmp_path_factory.mktemp("writer")))


def test_a_seed_says_what_is_drawn():
    logits = np.zeros(50, np.float32)

    def draw(seed):
        random = np.random.default_rng(seed)
        return [choose(logits, Sampling(1, seed=seed), random)[0] for _ in range(20)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_top_p_draws_only_among_the_likeliest():
    logits = np.log(np.array([0.5, 0.3, 0.1, 0.1], np.float32))
    random = np.random.default_rng(0)
    drawn = {choose(logits, Sampling(1, top_p=0.75), random)[0] for _ in range(200)}
    assert drawn == {0, 1}
    token, logprob = choose(logits, Sampling(1, temperature=0), random)
    assert (token, round(float(np.exp(logprob)), 4)) == (0, 0.5)


def test_nothing_is_given_out_that_a_stop_may_still_take_back(model):
    written = Written(1)
    pieces = list(generate(model, [2], Sampling(3, temperature=0, stop=("three four",)), written))
    assert "".join(pieces) == "two "
    assert written.ended == "stop"


def test_what_was_read_is_kept_and_not_read_again(tmp_path):
    model, written = ServedModel(keeper(tmp_path / "keeper")), Written(2)
    assert "".join(generate(model, [2, 3], Sampling(4, temperature=0), written)) == "one two three four"
    assert [each.name for each in model.signature.inputs] == ["input_ids", "attention_mask"]
    assert {each.shape for each in model.signature.inputs} == {("batch", "sequence")}
    assert [each.name for each in model.signature.outputs] == ["logits"]
    answer = model.run(model.feeds({"input_ids": np.array([[2, 3, 4], [5, 4, 3]])}))["logits"]
    assert answer.shape == (2, 3, 8)
    assert answer[:, -1].argmax(-1).tolist() == [3, 3]
