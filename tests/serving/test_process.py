"""The process itself: what it imports, what it says when it cannot start, and how it takes broken requests."""

import socket
import subprocess
import sys

import psutil

from tests.serving.conftest import ROOT
from tests.serving.small_models import classifier as make_classifier


def test_it_imports_no_torch_no_flask_and_no_database():
    strangers = ("torch", "flask", "sqlalchemy", "dbos", "transformers", "onnx", "webapp.jobs", "webapp.store")
    probe = (
        f"import sys, webapp.serving.__main__ as m, onnxruntime; print(*[n for n in {strangers} if n in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.split() == []


def test_its_memory_is_the_models(classifier):
    assert psutil.Process(classifier.process.pid).memory_info().rss < 200_000_000


def test_a_file_that_is_no_model_is_a_sentence(tmp_path):
    folder = make_classifier(tmp_path / "broken")
    (folder / "model.onnx").write_bytes(b"not a model")
    command = [sys.executable, "-m", "webapp.serving", str(folder), str(tmp_path / "s")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.strip().splitlines()[-1].startswith("The model cannot be loaded: ")
    assert "Traceback" not in done.stderr


def test_it_counts_and_describes_what_it_serves(classifier):
    before = classifier.get("/-/state")[1]
    assert before["signature"]["classes"] == ["cat", "dog"]
    classifier.post("/v1/models/rows:predict", {"instances": [[1, 2, 3]]})
    assert classifier.get("/-/state")[1]["requests"] == before["requests"] + 1


def test_a_client_that_speaks_no_http_harms_nobody(classifier):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(classifier.address))
        client.sendall(b"\x00\xff nonsense\r\n\r\n")
    headers = {"Content-Length": "many"}
    assert classifier.send("POST", "/v1/models/rows:predict", None, headers)[0] == 400
    assert classifier.get("/v2/health/live")[0] == 200


def test_a_client_that_leaves_a_stream_ends_it(writer):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(writer.address))
        body = b'{"model": "writer", "prompt": "one", "stream": true}'
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert writer.get("/v2/health/live")[0] == 200
