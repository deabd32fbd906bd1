"""A throw-away PostgreSQL cluster for the tests, started once per session, as an unprivileged user."""

import atexit
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.patience import PATIENCE_SECONDS

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")) + [
    Path(found) for found in [shutil.which("postgres")] if found
]


@functools.cache
def cluster() -> str:
    """The URL of its database `postgres`. Skips the test where PostgreSQL is not installed."""
    if not BINARIES:
        pytest.skip("PostgreSQL is not installed (looked in /usr/lib/postgresql and on the PATH)")
    binaries = BINARIES[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="pare-postgresql-"))
    owner = None
    if os.geteuid() == 0:  # the server refuses to run as root
        owner = pwd.getpwnam("nobody").pw_uid
        os.chown(folder, owner, -1)
    data, port = folder / "data", free_port()
    initdb = [
        binaries / "initdb",
        "-D",
        data,
        "-U",
        "pare",
        "--auth=trust",
        "--no-sync",
        "--encoding=UTF8",
        "--locale=C",
    ]
    subprocess.run(initdb, check=True, capture_output=True, user=owner, cwd=folder)
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "fsync": "off"}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    log = (folder / "log").open("w")
    server = subprocess.Popen([binaries / "postgres", "-D", data, *options], stderr=log, user=owner, cwd=folder)

    def stop() -> None:
        server.send_signal(signal.SIGQUIT)  # at once, whoever is still connected: nothing of it is kept
        server.wait(PATIENCE_SECONDS)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    url = f"postgresql://pare@127.0.0.1:{port}/postgres"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            psycopg.connect(url).close()
            return url
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {(folder / 'log').read_text()}") from None
            time.sleep(0.1)


def fresh_database() -> str:
    """The URL of a new, empty database."""
    url, name = cluster(), f"pare_{uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return url.rsplit("/", 1)[0] + f"/{name}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
