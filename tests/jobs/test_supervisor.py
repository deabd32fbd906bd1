"""`pare serve`: one command, one Ctrl-C; what dies is started again, and nothing stays."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.jobs.bench import QUICK
from tests.patience import PATIENCE_SECONDS, until
from webapp.jobs.errors import PortTaken
from webapp.jobs.supervisor import listen, url_of

ROOT = Path(__file__).parents[2]


def processes(instance):
    """All that run for this instance, whoever started them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            named = str(instance) in " ".join(process.cmdline()) or process.environ().get("PARE_INSTANCE") == str(
                instance
            )
            if named and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def named(instance, word):
    found = []
    for process in processes(instance):
        with contextlib.suppress(psutil.Error):
            if word in process.cmdline():
                found.append(process)
    return found


def gone(instance):
    return lambda: not processes(instance)


@pytest.fixture
def serve(tmp_path):
    """Starts `pare serve`; returns its process and its URL once it says that it is ready."""
    started = []

    def serve(*arguments):
        command = [sys.executable, "-m", "webapp.cli", "serve", "--port", "0", "--instance", str(tmp_path), *arguments]
        log = (tmp_path / "log").open("w")
        environment = os.environ | QUICK
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, env=environment)
        started.append(process)
        line = process.stdout.readline()
        log.close()
        said = re.fullmatch(r"Pare is ready at (http://127\.0\.0\.1:\d+)\n", line)
        assert said, (tmp_path / "log").read_text()
        return process, said[1]

    yield serve
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
    until(gone(tmp_path))


def get(url):
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
        return answer.status


def test_it_serves_with_its_workers_heals_what_dies_and_leaves_nothing_at_ctrl_c(serve, tmp_path):
    process, url = serve("--workers", "2")
    assert get(f"{url}/healthz") == 200
    assert get(url) == 200
    workers = until(lambda: len(found := named(tmp_path, "worker")) == 2 and found)

    workers[0].kill()
    until(lambda: len(found := named(tmp_path, "worker")) == 2 and workers[0] not in found)
    for web in named(tmp_path, "webapp:create_app()"):
        with contextlib.suppress(psutil.NoSuchProcess):
            web.kill()
    until(lambda: _answers(url))

    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 0
    until(gone(tmp_path))
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_killed_supervisor_leaves_no_orphans(serve, tmp_path):
    process, _ = serve()
    until(lambda: named(tmp_path, "worker"))
    process.kill()
    until(gone(tmp_path))


def _answers(url):
    with contextlib.suppress(OSError):
        return get(f"{url}/healthz") == 200


def test_a_port_that_is_taken_is_a_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "webapp.cli", "serve", "--port", port, "--instance", str(tmp_path)]
        said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert said.returncode == 1
    assert said.stderr.startswith(f"pare: Pare cannot listen on 127.0.0.1 port {port}: Address already in use.")
    assert "--port" in said.stderr
    assert processes(tmp_path) == []


def test_an_address_that_is_not_ours_is_a_sentence():
    with pytest.raises(PortTaken, match=r"(is not an address|cannot listen)"):
        listen("192.0.2.1", 0)
    with pytest.raises(PortTaken, match="is not an address of this machine"):
        listen("no such host", 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),  # noqa: S104
        ("::1", "http://[::1]:80"),
        ("::", "http://[::1]:80"),
        ("pare.local", "http://pare.local:80"),
    ],
)
def test_the_url_is_one_that_a_browser_here_can_open(host, url):
    assert url_of(host, 80) == url
