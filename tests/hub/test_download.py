"""A model by its name, fetched with Hugging Face's own client from a hub on loopback."""

import json

import pytest

from tests.hub_server import hub_server


@pytest.fixture
def hub():
    with hub_server() as found:
        yield found


@pytest.fixture
def no_waiting(monkeypatch):
    from webapp.hub import download

    monkeypatch.setattr(download, "WAIT_SECONDS", (0.01, 0.01))


class Told:
    def __init__(self):
        self.fractions = []

    def progress(self, fraction, message=""):
        self.fractions.append(fraction)


def wanted(hub, name="someone/tiny", revision="main", token=""):
    from webapp.hub.download import Wanted

    return Wanted(hub.url, token, name, revision)


def fetch(hub, folder, limit_bytes=10**9, report=None, **given):
    """What a job does: the commit, then its files."""
    from webapp.hub.download import download, resolve
    from webapp.hub.errors import told

    asked = wanted(hub, **given)
    with told(asked.endpoint, asked.repo_id):
        revision = resolve(asked, limit_bytes)["revision"]
        return download(wanted(hub, **(given | {"revision": revision})), folder, limit_bytes, report or Told())


def refusal(hub, folder, **given):
    from webapp.engine.errors import PareError

    with pytest.raises(PareError) as refused:
        fetch(hub, folder, **given)
    return refused.value


def fetched(folder):
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts
    }


def shards(*names, index=True):
    files = {name: name.encode() * 500 for name in names}
    if index:
        files["model.safetensors.index.json"] = json.dumps(
            {"weight_map": dict(zip("abc", names, strict=False))}
        ).encode()
    return files


MODEL = {"config.json": b"{}", "tokenizer.json": b"{}", "1_Pooling/config.json": b"{}"}
CODE = {
    "modeling_evil.py": b"raise SystemExit",
    "pytorch_model.bin": b"\x80",
    "original/consolidated.safetensors": b"x",
}


@pytest.mark.parametrize(
    ("weights", "taken"),
    [
        ({"model.safetensors": b"w"}, {"model.safetensors"}),
        ({"adapted.safetensors": b"w"}, {"adapted.safetensors"}),
        (
            shards("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors") | {"consolidated.safetensors": b"x"},
            {"m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "model.safetensors.index.json"},
        ),
        (
            shards("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", index=False)
            | {"other.safetensors": b""},
            {"m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"},
        ),
    ],
)
def test_safetensors_config_and_tokenizer_of_one_commit_come_and_nothing_else(hub, tmp_path, weights, taken):
    model = hub.add("someone/tiny", MODEL | CODE | weights)
    told = Told()
    found = fetch(hub, tmp_path, report=told)
    assert fetched(tmp_path) == set(MODEL) | taken
    assert all((tmp_path / name).read_bytes() == model.files[name] for name in fetched(tmp_path))
    assert set(found["digests"]) == {name for name in taken if name.endswith(".safetensors")}
    assert told.fractions[-1] == 1
    assert told.fractions == sorted(told.fractions)
    assert not [path for _, path, _ in hub.asked if path.endswith((".py", ".bin"))]
    assert all(model.sha in path for _, path, _ in hub.asked if "/resolve/" in path), (
        "files are of the commit, not of main"
    )


def test_the_commit_is_the_one_that_was_asked_for(hub, tmp_path):
    model = hub.add("someone/tiny", MODEL | {"model.safetensors": b"w"})
    fetch(hub, tmp_path, revision=model.sha)
    assert refusal(hub, tmp_path, revision="0" * 40).code == "hub_refused"
    assert "no such revision" in refusal(hub, tmp_path, revision="gone").message


def test_a_connection_that_breaks_off_goes_on(hub, tmp_path):
    weights = {"model.safetensors": bytes(range(256)) * 4000}
    hub.add("someone/tiny", MODEL | weights)
    hub.break_after = 300_000
    fetch(hub, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == weights["model.safetensors"]


def test_what_is_there_already_is_not_fetched_again(hub, tmp_path):
    model = hub.add("someone/tiny", MODEL | {"model.safetensors": b"w"})
    fetch(hub, tmp_path, revision=model.sha)
    hub.asked.clear()
    fetch(hub, tmp_path, revision=model.sha)
    assert not [path for method, path, _ in hub.asked if "/resolve/" in path]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, "no safetensors; it has pytorch_model.bin"),
        ({"config.json": b"{}", "deep/model.safetensors": b"x"}, "has no safetensors"),
        ({"model.safetensors": b"x"}, "has no config.json"),
        (MODEL | {"model.safetensors": b"x", "model.safetensors.index.json": b"[]"}, "has no weight_map"),
        (
            MODEL
            | {
                "model.safetensors": b"x",
                "model.safetensors.index.json": json.dumps({"weight_map": {"a": "../../x.safetensors"}}).encode(),
            },
            "names ../../x.safetensors, which is not there",
        ),
    ],
)
def test_what_is_no_model_in_safetensors_is_refused(hub, tmp_path, files, sentence):
    hub.add("someone/tiny", files)
    assert sentence in refusal(hub, tmp_path).message
    assert not [name for name in fetched(tmp_path) if name.endswith(".safetensors")]


def test_what_is_too_large_is_refused_before_its_weights_are_fetched(hub, tmp_path):
    hub.add("someone/tiny", MODEL | {"model.safetensors": b"w" * 5000})
    assert "at most 4000 are taken in (max_upload_bytes)" in refusal(hub, tmp_path, limit_bytes=4000).message
    assert fetched(tmp_path) == set()


def test_the_token_of_the_settings_opens_what_is_private_and_no_other_is_ever_sent(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    hub.add("someone/private", MODEL | {"model.safetensors": b"w"}, private=True)
    hub.add("someone/gated", MODEL | {"model.safetensors": b"w"}, gated=True)
    assert "shows no model" in refusal(hub, tmp_path, name="someone/private").message
    assert "accept its terms" in refusal(hub, tmp_path, name="someone/gated").message
    assert "shows no model" in refusal(hub, tmp_path, name="someone/else").message
    assert hub.tokens == {""}
    for name in ("private", "gated"):
        fetch(hub, tmp_path / name, name=f"someone/{name}", token=hub.token)
    assert hub.tokens == {"", f"Bearer {hub.token}"}


def test_a_hub_that_is_away_is_asked_again_and_then_told_of(hub, tmp_path, no_waiting):
    hub.add("someone/tiny", MODEL | {"model.safetensors": b"w"})
    hub.failing = 2
    fetch(hub, tmp_path)
    hub.failing = 10**6
    error = refusal(hub, tmp_path)
    assert (error.code, hub.url in error.message) == ("hub_unreachable", True)
