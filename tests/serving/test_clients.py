"""Clients from PyPI talk to deployed models of a real Pare, given the address and the token and nothing else."""

from __future__ import annotations

import pytest
import requests

from tests.api_client import Api
from tests.patience import until
from tests.serving.deployed_models import MODELS, deployed_models


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    with deployed_models(tmp_path_factory, *MODELS) as deployed:
        yield deployed


@pytest.fixture
def openai():
    import openai

    return openai


@pytest.fixture
def client(openai, deployed):
    url, token = deployed["writer"]
    with openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0) as client:
        yield client


def test_openai_completes_and_chats(client):
    done = client.completions.create(model="writer", prompt="one", temperature=0)
    assert (done.choices[0].text, done.choices[0].finish_reason) == ("two three four", "stop")
    assert done.usage.total_tokens == 4
    said = client.chat.completions.create(
        model="writer", messages=[{"role": "user", "content": "four"}], temperature=0, max_tokens=2
    )
    assert said.choices[0].message.content == "one two"
    assert client.models.retrieve("writer").id == "writer"
    assert [model.id for model in client.models.list()] == ["writer"]


def test_openai_streams(client):
    parts = client.chat.completions.create(
        model="writer",
        messages=[{"role": "user", "content": "four"}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    found = list(parts)
    texts = [part.choices[0].delta.content or "" for part in found if part.choices]
    assert "".join(texts) == "one two three four"
    assert len(texts) > 4
    assert found[-1].usage.completion_tokens == 4


def test_openai_hears_what_is_wrong_in_its_own_classes(openai, client, deployed):
    with pytest.raises(openai.BadRequestError, match="Tools is not supported") as refused:
        client.completions.create(model="writer", prompt="one", extra_body={"tools": [{}]})
    assert refused.value.type == "invalid_request_error"
    with (
        openai.OpenAI(base_url=f"{deployed['writer'][0]}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError, match="this deployment's token"),
    ):
        stranger.models.list()


def test_openai_embeds(openai, deployed):
    url, token = deployed["encoder"]
    with openai.OpenAI(base_url=f"{url}/v1", api_key=token) as client:
        found = client.embeddings.create(model="encoder", input=["one two", "one"])
    one, two = (each.embedding for each in found.data)
    assert sum(a * b for a, b in zip(one, two, strict=True)) == pytest.approx(0.5**0.5, abs=1e-6)


def test_one_connection_asks_often_and_is_counted(deployed):
    url, token = deployed["rows"]
    headers = {"Authorization": f"Bearer {token}"}
    with requests.Session() as session:
        for _ in range(20):  # one connection, kept alive
            answer = session.post(f"{url}/v1/models/rows:predict", json={"instances": [[1, 2, 3]]}, headers=headers)
            assert answer.json() == {"predictions": [[7.0, -1.0]]}
        api = Api(url.split("/serve/")[0])
        until(lambda: api.get("/deployments/rows")["requests"] >= 20)
