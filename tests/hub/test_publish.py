"""A result is pushed with the real client, as one commit of a repository that is new or of Pare."""

import pytest

from tests.hub.test_download import Told
from tests.hub_server import hub_server

RESULT = {"model.safetensors": b"w" * 5000, "receipt.json": b"{}", "README.md": b"---\ntags: [pare]\n---\n"}


@pytest.fixture
def hub():
    with hub_server() as found:
        yield found


@pytest.fixture
def result(tmp_path):
    for name, content in (RESULT | {"pare/model.safetensors": b"v" * 3000}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def push(hub, folder, repo_id="someone/small", token=None, private=True, report=None):
    from webapp.hub.errors import told
    from webapp.hub.publish import publish

    with told(hub.url, repo_id):
        return publish(hub.url, token or hub.token, repo_id, folder, private, "A message", report or Told())


@pytest.mark.parametrize("private", [True, False])
def test_all_of_it_becomes_one_commit(hub, result, private):
    report = Told()
    found = push(hub, result, private=private, report=report)
    model = hub.models["someone/small"]
    assert model.files == RESULT | {"pare/model.safetensors": b"v" * 3000, ".gitattributes": b""}
    assert (model.private, model.sha) == (private, found["revision"])
    assert found["url"] == f"{hub.url}/someone/small/commit/{model.sha}"
    assert report.fractions == sorted(report.fractions)
    assert len([path for method, path, _ in hub.asked if "/commit/" in path]) == 1


def test_what_the_hub_has_is_not_sent_again(hub, result):
    push(hub, result)
    hub.asked.clear()
    (result / "receipt.json").write_text('{"again": 1}')
    push(hub, result)
    assert not [path for method, path, _ in hub.asked if method == "PUT"]
    assert hub.models["someone/small"].files["receipt.json"] == b'{"again": 1}'


def test_a_repository_of_another_model_is_left_alone(hub, result):
    from webapp.engine.errors import PareError

    hub.add("someone/small", {"config.json": b"{}", "model.safetensors": b"mine"})
    with pytest.raises(PareError, match="and no receipt of Pare: it is another model"):
        push(hub, result)
    assert hub.models["someone/small"].files["model.safetensors"] == b"mine"


def test_a_token_that_may_not_write_is_told(hub, result):
    from webapp.engine.errors import PareError

    with pytest.raises(
        PareError, match=r"does not allow it \(403\): see the token in the setting hub_token"
    ) as refused:
        push(hub, result, token="hf_of_a_reader")
    assert "hf_of_a_reader" not in refused.value.message
    assert hub.models == {}
