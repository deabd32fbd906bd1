"""The Python client against a real Pare: its documentation's examples, and what goes wrong."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from html import unescape
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.request import urlopen

import pytest

from tests.pare_process import serving
from webapp.client import NotSucceeded, Pare, PareRefused, PareUnreachable
from webapp.samples import CHECKPOINT, DATASET

DOCS = Path(__file__).parents[1] / "docs/python-client.md"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("instance")) as pare:
        yield pare


@pytest.fixture
def here(tmp_path, monkeypatch):
    shutil.copy(CHECKPOINT, tmp_path)
    shutil.copy(DATASET, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_of_the_documentation_work_one_after_the_other(served, here):
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf8"), re.DOTALL):
        exec(example.replace("http://127.0.0.1:8000", served.url), names)  # noqa: S102 - as a reader would
    deployment, replay = names["deployment"], names["replay"]
    assert (deployment["state"], bool(deployment["token"])) == ("ready", True)
    assert (replay.state, replay.result["replayed"]) == ("succeeded", 200)
    assert "every answer is the recorded one" in replay.data["sentences"][0]
    with pytest.raises(PareRefused, match="cannot be compared with"):
        names["pare"].replay(deployment["name"], beside="nothing")
    assert "replays" in shown_calls(served, f"/deployments/{deployment['name']}")["start-curl"]
    first, run = Path("smaller.safetensors").read_bytes(), names["run"]
    assert run.state == "succeeded"
    knee, smaller = names["knee"], names["smaller"]
    assert smaller.data["continued_from_id"] == knee.id
    pare = names["pare"]
    eight_bits = next(run for run in pare.runs(q="8 bits"))
    digests = {each["name"]: each["digest"] for each in pare.get(eight_bits).data["artifacts"]}
    assert digests["model.safetensors"] == hashlib.sha256(first).hexdigest()
    assert "samples.parquet" in pare.get(eight_bits).artifacts
    assert pare.download(eight_bits, here, "samples.parquet") == here / "samples.parquet"


def shown_calls(served, address):
    """{"start-curl": "curl …"} of a page, as they are copied."""
    with urlopen(served.url + address) as answer:
        page = answer.read().decode()
    found = re.findall(r'<pre class="snippet" id="call-(\w+-\w+)"[^>]*>(.*?)</pre>', page, re.DOTALL)
    return {name: unescape(text) for name, text in found}


def test_the_requests_that_pages_show_give_what_they_show(served, here):
    pare = Pare(served.url)
    checkpoint, dataset = pare.upload_checkpoint(CHECKPOINT), pare.upload_dataset(DATASET)
    step = {"technique": "magnitude_pruning", "settings": {"sparsity": "0.3..0.5 step 0.1"}}
    study = pare.sweep(checkpoint, {"version": 2, "steps": [step]}, dataset, name='what\'s "shown"', wait=True)
    profile = pare.profile(checkpoint, dataset)
    webhook = pare.call("POST", "/webhooks", {"url": "https://1.1.1.1/", "enabled": False})["id"]  # it is never called
    first, *_ = runs = [run["id"] for run in study.data["runs"]]
    both = "&".join(f"run={run}" for run in runs[:2])
    pages = {
        "/": None,
        "/runs?q=sparsity&sort=-size_bytes&state=succeeded": None,
        f"/runs/{first}": ("checkpoint_id", checkpoint.id),
        f"/runs/{first}/receipt": None,
        f"/runs/{first}/samples?outcome=both_right": None,
        f"/runs/{first}/blame": None,
        f"/compare?{both}&x=sparsity": None,
        f"/compare/samples?{both}": None,
        "/checkpoints": None,
        f"/checkpoints/{checkpoint.id}": None,
        f"/checkpoints/{checkpoint.id}/fit": ("profile_id", profile.id),
        "/datasets": None,
        f"/datasets/{dataset.id}": None,
        f"/runs/new?checkpoint={checkpoint.id}": ("checkpoint_id", checkpoint.id),
        "/studies": None,
        f"/studies/{study.id}": ("sweep", ...),
        "/deployments": None,
        "/techniques": None,
        "/webhooks": None,
        f"/webhooks/{webhook}": None,
    }
    for address, asked in pages.items():
        calls = shown_calls(served, address)
        for name, text in calls.items():
            if name.endswith("-curl"):
                called = subprocess.run(["bash", "-c", f"{text} -sf"], capture_output=True, text=True, check=False)
                assert called.returncode == 0, (address, text)
                told = json.loads(called.stdout)
                assert name != "read-curl" or address != f"/runs/{first}" or told["id"] == first
            else:
                exec(text, names := {})  # noqa: S102 - as a reader would
                if name == "start-python" and asked[1] is not ...:
                    assert names["body"][asked[0]] == asked[1]
        started = {"start-python", "start-curl"} if asked else set()
        assert started <= set(calls), address
        assert "/runs/new" in address or {"read-python", "read-curl"} <= set(calls), address
    later = pare.call("GET", "/runs?limit=1")["next"]
    exec(shown_calls(served, f"/runs?from={later}")["read-python"], names := {})  # noqa: S102
    assert [run.id for run in names["runs"]] == [run.id for run in pare.runs()][1:]
    again = shown_calls(served, f"/studies/{study.id}")["start-python"]
    exec(again, names := {})  # noqa: S102
    assert pare.wait(pare.get(names["started"]["id"], "studies")).data["sweep"]["axes"] == study.data["sweep"]["axes"]


def test_refusals_are_raised_with_their_sentence_and_field(served, here):
    pare = Pare(served.url)
    (here / "bad.safetensors").write_bytes(b"no model at all" * 10)
    with pytest.raises(NotSucceeded) as refused:
        pare.upload_checkpoint("bad.safetensors")
    assert refused.value.thing.state == "refused"
    assert len(str(refused.value)) > 20
    with pytest.raises(PareRefused) as unknown:
        pare.run("2" * 12, recipe={"version": 2, "steps": [{"technique": "cast"}]})
    assert (unknown.value.status, unknown.value.code, unknown.value.field) == (404, "not_found", "checkpoint_id")
    checkpoint = pare.upload_checkpoint(CHECKPOINT)
    with pytest.raises(PareRefused, match="alchemy"):
        pare.run(checkpoint, recipe={"version": 2, "steps": [{"technique": "alchemy"}]})
    with pytest.raises(PareRefused):
        pare.download("2" * 12, here)
    assert not list(here.glob("*.part"))
    with pytest.raises(ValueError, match="kind"):
        pare.get("2" * 12)


def test_a_run_is_waited_for_as_long_as_is_said_and_cancelled(served):
    pare = Pare(served.url)
    checkpoint, dataset = pare.upload_checkpoint(CHECKPOINT), pare.upload_dataset(DATASET)
    long = {"version": 2, "steps": [{"technique": "distillation", "settings": {"epochs": 100}}]}
    run = pare.run(checkpoint, recipe=long, dataset=dataset)
    with pytest.raises(TimeoutError, match="still"):
        pare.wait(run, seconds=0.5)
    pare.cancel(run)
    with pytest.raises(NotSucceeded) as ended:
        pare.wait(run)
    assert ended.value.thing.state == "cancelled"
    pare.delete(ended.value.thing)


def test_where_nobody_answers_that_is_said():
    with pytest.raises(PareUnreachable, match="No Pare answers"):
        Pare("http://127.0.0.1:9", timeout=5).get("x" * 12, "runs")


class Proxy(BaseHTTPRequestHandler):
    """Something in between, which speaks no JSON; or which spoils what it hands on."""

    def do_GET(self):
        spoilt = "artifacts" in self.path
        self.send_response(200 if spoilt else 502)
        self.send_header("ETag", f'"{"0" * 64}"')
        self.end_headers()
        self.wfile.write(b"<html>Bad gateway</html>")
        assert self.headers["Authorization"] == "Bearer secret"

    def log_message(self, *_):
        pass


def test_an_answer_that_is_none_of_pares_and_a_file_that_was_spoilt_are_noticed(tmp_path):
    server = HTTPServer(("127.0.0.1", 0), Proxy)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        pare = Pare(f"http://127.0.0.1:{server.server_port}", token="secret")
        with pytest.raises(PareRefused, match="502"):
            pare.get("x" * 12, "runs")
        with pytest.raises(OSError, match="download it again"):
            pare.download("x" * 12, tmp_path)
        assert not list(tmp_path.iterdir())
    finally:
        server.shutdown()
        server.server_close()


def test_it_imports_nothing_but_python():
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, webapp.client; print([n for n in sys.modules if n in ('torch', 'flask', 'pydantic')])",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert told.stdout.strip() == "[]"
