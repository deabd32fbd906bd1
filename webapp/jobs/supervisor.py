"""`pare serve`: web server, workers and deployer as children of one process, restarted when they die."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from ipaddress import ip_address
from types import FrameType

from webapp.config import InstallationSettings, SettingInvalid, kept_secret
from webapp.engine.errors import PareError

from .errors import PortTaken
from .processes import PACKAGE_PARENT, Service, kill_group, python

log = logging.getLogger(__name__)

WEB_THREADS = 24  # beside those that wait for clients; requests to deployed models wait in 16 of them
PATIENCE_SECONDS = 10.0  # for a child to end after SIGTERM, then it is killed
FALSE_STARTS = 3  # so often may the web server die before it ever answered


class StartFailed(PareError, code="start_failed", status=500):
    """The web server does not start."""


class Supervisor:
    """`listening` is a socket that the web server takes over; it stays open while that one is restarted.

    With `is_open` whoever reaches it may use it, also from other machines. Raises SettingInvalid for that and a token.
    """

    def __init__(
        self, settings: InstallationSettings, listening: socket.socket, host: str, is_open: bool = False
    ) -> None:
        self._told_to_stop = threading.Event()
        self.notice, settings = access_of(settings, ip_address(listening.getsockname()[0]).is_loopback, is_open)
        self.listening = listening
        self.url = url_of(host, listening.getsockname()[1])
        environment = service_environment(settings, host)
        here = str(settings.instance)
        worker = python("-m", "webapp.cli", "worker", "--instance", here)
        self.web = Service(
            "web server",
            web_command(listening.fileno(), settings.transfers_at_once),
            environment,
            (listening.fileno(),),
        )
        self.services = [self.web]
        self.services += [Service(f"worker {n}", worker, environment) for n in range(1, settings.workers + 1)]
        deployer = python("-m", "webapp.cli", "deployer", "--instance", here)
        self.services.append(Service("deployer", deployer, environment))

    def run(self, say: Callable[[str], None]) -> None:
        """Serves until SIGINT or SIGTERM. Says `Pare is ready at …` once the web server answers.

        Raises StartFailed when the web server dies again and again before it answers.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        ready = False
        try:
            while not self._told_to_stop.wait(0.2):
                if not ready and self.web.starts >= FALSE_STARTS and self.web.process is None:
                    raise StartFailed("The web server does not start; its messages above say why.")
                for service in self.services:
                    service.keep_alive()
                if not ready and answers(self.url):
                    ready = True
                    say(f"Pare is ready at {self.url}")
                    if self.notice:
                        say(self.notice)
        finally:
            self._end()

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        self._told_to_stop.set()

    def _end(self) -> None:
        processes = [service.process for service in self.services if service.process]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + PATIENCE_SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("Process %s does not end; it is killed", process.pid)
            kill_group(process.pid)
            process.wait()
        self.listening.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one. Raises PortTaken with a sentence."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except PermissionError as error:
        raise PortTaken(f"Port {port} may not be opened by this user; choose one above 1023 with --port.") from error
    except socket.gaierror as error:
        raise PortTaken(
            f"{host} is not an address of this machine ({error.strerror}); choose another --host."
        ) from error
    except OSError as error:
        raise PortTaken(
            f"Pare cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}. Another program may be "
            "serving there; stop it, or choose another port with --port (0 picks a free one)."
        ) from error


def url_of(host: str, port: int) -> str:
    """Where a browser on this machine finds it."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"http://[{shown}]:{port}" if ":" in shown and not shown.startswith("[") else f"http://{shown}:{port}"


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def web_command(descriptor: int, transfers_at_once: int) -> list[str]:
    options = {
        "bind": f"fd://{descriptor}",
        "worker-class": "webapp.web.connections.GunicornWorker",
        "workers": "1",
        "threads": str(WEB_THREADS + transfers_at_once),
        "timeout": "120",
        "graceful-timeout": "5",
        "log-level": "warning",
        "limit-request-line": "8190",  # the most; a comparison has its runs in the address, 17 bytes each
    }
    named = [part for name, value in options.items() for part in (f"--{name}", value)]
    start = "from webapp.web.connections import Gunicorn; Gunicorn().run()"
    return python("-c", start, *named, "--no-control-socket", "webapp:create_app()")


def access_of(settings: InstallationSettings, alone: bool, is_open: bool) -> tuple[str, InstallationSettings]:
    """What is to be said of who may use it, and the settings with its access token. `alone`: on this machine only."""
    if is_open and settings.access_token:
        raise SettingInvalid("--open asks nobody for a token, but access_token is set; remove one of them.")
    if settings.access_token:
        return "It asks for the access token that is set.", settings
    if is_open:
        return "WARNING: it is open: whoever reaches it can see, run and delete everything (--open).", settings
    if alone:
        return "", settings
    kept = settings.instance / "access_token"
    known = kept.exists()
    token = kept_secret(kept)
    notice = f"It asks for the access token in {kept}." if known else f"It asks for this access token: {token}"
    return notice, settings.model_copy(update={"access_token": token})


def service_environment(settings: InstallationSettings, host: str) -> dict[str, str]:
    """The services read the same settings as this process, those from its command line included."""
    paths = [str(PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return (
        {"MALLOC_ARENA_MAX": "1"}
        | os.environ
        | {  # else each thread keeps freed memory of its own
            "PARE_INSTANCE": str(settings.instance),
            "PARE_WORKERS": str(settings.workers),
            "PARE_ACCESS_TOKEN": settings.access_token,
            "PARE_TRUSTED_HOSTS": ",".join(filter(None, [settings.trusted_hosts, host])),
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
        }
    )
