"""Every setting once: its name (units included), its default and a sentence of help.

A value comes from the environment (`PARE_` and the name in capitals), else from `settings.toml` in the
instance folder, else from the default. `python -m webapp.config` prints docs/settings.md.
"""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import socket
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from webapp.engine.errors import PareError


class SettingInvalid(PareError):
    """A setting is unknown, or its value is not what it should be."""

    code = "setting_invalid"
    status = 500


def setting(help: str, default: Any, derived: Callable[[Settings], Any] | None = None, secret: bool = False) -> Any:
    """A row. With `derived`, `default` is the sentence that says how the value is found. Secrets are never printed."""
    value = None if derived else default
    return dataclasses.field(
        default=value, metadata={"help": help, "default": default, "derived": derived}, repr=not secret
    )


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """What this machine or its control group grants, whichever is less."""
    granted = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = Path(name)
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            granted.append(int(text))
    return min(granted)


def kept_secret(path: Path) -> str:
    """The random text in `path`, made at the first call; processes that start at once agree on one."""
    if not path.exists():
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was first; its text is the one
        finally:
            os.unlink(draft)
    return path.read_text().strip()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What one installation is told. Made by `Settings.load`."""

    file_name: ClassVar[str] = "settings.toml"

    instance: Path

    database_url: str = setting(
        "Where checkpoints, runs and results are kept, as an SQLAlchemy URL (SQLite or postgresql+psycopg).",
        "pare.db in the instance folder",
        lambda s: f"sqlite:///{s.instance / 'pare.db'}",
    )
    jobs_database_url: str = setting(
        "Where the job system keeps its own tables.",
        "jobs.db in the instance folder for SQLite, else the same as database_url",
        lambda s: f"sqlite:///{s.instance / 'jobs.db'}" if s.database_url.startswith("sqlite") else s.database_url,
    )
    files_url: str = setting(
        "Where checkpoints and artifacts are kept: a folder, or any fsspec URL such as s3://bucket/pare.",
        "the folder files in the instance folder",
        lambda s: str(s.instance / "files"),
    )
    max_upload_bytes: int = setting("The largest file that can be uploaded, in bytes.", 20_000_000_000)
    max_unpacked_bytes: int = setting(
        "The most that an uploaded archive may hold once unpacked, in bytes.", 40_000_000_000
    )
    min_free_bytes: int = setting(
        "Nothing is stored that would leave less than this free on the disk, in bytes.", 200_000_000
    )
    run_memory_limit_bytes: int = setting(
        "The memory that the process which compresses may allocate, in bytes; a run that needs more fails and says so.",
        "80 % of the memory of the machine or its control group",
        lambda s: memory_bytes() * 8 // 10,
    )
    inspection_memory_bytes: int = setting(
        "The memory that the inspection of an upload may allocate beside sixteen times its size (unpacked), "
        "in bytes; never more than run_memory_limit_bytes.",
        2_000_000_000,
    )
    inspection_seconds: float = setting(
        "How long the inspection of an upload may take, in seconds; it gets one more for every megabyte of the upload.",
        120.0,
    )
    inspections_at_once: int = setting("How many uploads a worker inspects at once.", 2)
    workers: int = setting("How many worker processes `pare serve` starts; each does one run at a time.", 1)
    threads_per_child: int = setting(
        "How many threads one compressing process computes with; 0: the cores divided by the workers on this machine.",
        0,
    )
    child_restarts: int = setting("How often a stage whose process was killed from outside is started again.", 3)
    cancel_poll_seconds: float = setting("How often a worker looks whether its run was cancelled, in seconds.", 0.5)
    progress_interval_seconds: float = setting("The least time between two notes of a run's progress, in seconds.", 0.5)
    queue_poll_seconds: float = setting("How often an idle worker looks for work, in seconds.", 0.5)
    heartbeat_seconds: float = setting("How often a worker says that it is alive, in seconds.", 5.0)
    worker_stale_seconds: float = setting(
        "After this many seconds without a sign of life, a worker's run is taken over by another.", 30.0
    )
    sweep_interval_seconds: float = setting(
        "How often files that nothing refers to are looked for, in seconds.", 3600.0
    )
    sweep_age_seconds: float = setting(
        "How old a file that nothing refers to gets before it is deleted, in seconds.", 86400.0
    )
    max_request_bytes: int = setting(
        "The largest request that a deployed model takes, in bytes; the process that serves it holds it in memory.",
        64_000_000,
    )
    request_timeout_seconds: float = setting(
        "How long a deployed model may be silent before its client is told that it does not answer, in seconds.", 120.0
    )
    transfers_at_once: int = setting(
        "How many uploads and downloads may be on their way at once; more are asked to come again (503). Pages are "
        "answered besides.",
        16,
    )
    client_idle_seconds: float = setting(
        "How long a client may send or take nothing before its connection is ended, in seconds.", 30.0
    )
    secret_key: str = setting(
        "Signs the session cookie and the form tokens. Whoever knows it can forge them.",
        "made once, in the file secret_key of the instance folder",
        lambda s: kept_secret(s.instance / "secret_key"),
        secret=True,
    )
    trusted_hosts: str = setting(
        "The names by which browsers may reach Pare beside localhost, this machine's own name and any IP address, with "
        "commas between; another one is refused. * takes any name.",
        "none",
        lambda s: "",
    )
    access_token: str = setting(
        "What a browser signs in with and a program sends as Authorization: Bearer; 16 characters or more. Where it is "
        "set it is asked for, also on this machine alone.",
        "none on this machine alone; beyond it made once, in the file access_token of the instance folder",
        lambda s: "",
        secret=True,
    )
    log_level: str = setting("How much the server and the workers say: DEBUG, INFO, WARNING or ERROR.", "INFO")

    @classmethod
    def load(cls, instance: Path, env: Mapping[str, str] | None = None) -> Settings:
        """Reads the settings of the installation in the folder `instance`, making the folder where it is missing."""
        env = os.environ if env is None else env
        instance = instance.expanduser().absolute()
        try:
            instance.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingInvalid(f"The instance folder {instance} cannot be made: {error.strerror}.") from error
        given: dict[str, Any] = {}
        written = _read(instance / cls.file_name)
        kinds = {row.name: str(row.type) for row in rows()}
        for name in kinds:
            if f"PARE_{name.upper()}" in env:
                source = f"PARE_{name.upper()} in the environment"
                given[name] = _typed(env[f"PARE_{name.upper()}"], kinds[name], source)
            elif name in written:
                source = f"{name} in {instance / cls.file_name}"
                given[name] = _typed(written[name], kinds[name], source)
            if name.endswith("_seconds") and given.get(name) == 0:
                raise SettingInvalid(f"{source} is 0; it must be more than 0 seconds.", name)
        settings = cls(instance=instance, **given)
        for row in rows():
            if row.metadata["derived"] and row.name not in given:
                settings = dataclasses.replace(settings, **{row.name: row.metadata["derived"](settings)})
        if settings.access_token and not re.fullmatch("[!-~]{16,}", settings.access_token):
            raise SettingInvalid("access_token must have 16 or more ASCII characters, without spaces.", "access_token")
        return settings

    @classmethod
    def from_environment(cls) -> Settings:
        """The settings of the installation that `PARE_INSTANCE` names, `instance` here where it is not set."""
        return cls.load(Path(os.environ.get("PARE_INSTANCE", "instance")))

    @property
    def work(self) -> Path:
        """The folder for the temporary files of work in progress; workers remove their own leftovers from it."""
        return self.instance / "work"

    def threads(self, workers_here: int) -> int:
        """Of one compressing process where so many workers share this machine."""
        return self.threads_per_child or max(1, cores() // max(1, workers_here))

    @property
    def machine(self) -> str:
        """Tells this installation on this machine from all others; stable over restarts."""
        return f"{socket.gethostname()}-{kept_secret(self.instance / 'machine_id')[:8]}"


def rows() -> tuple[dataclasses.Field[Any], ...]:
    """The settings, in order: `.name`, `.type`, `.metadata["help"]`, `.metadata["default"]`."""
    return tuple(field for field in dataclasses.fields(Settings) if field.name != "instance")


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        written = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"{path} is not valid TOML: {error}.") from error
    known = [row.name for row in rows()]
    for name in written:
        if name not in known:
            raise SettingInvalid(f"{path} sets {name}, which Pare does not know; it knows {', '.join(known)}.", name)
    return written


def _typed(value: Any, kind: str, source: str) -> Any:
    try:
        typed = {"int": int, "float": float, "str": str}[kind](value)
    except (TypeError, ValueError) as error:
        raise SettingInvalid(f"{source} is {value!r}; it must be {_wanted(kind)}.") from error
    if isinstance(value, bool) or (kind != "str" and typed < 0) or (kind == "int" and typed != float(value)):
        raise SettingInvalid(f"{source} is {value!r}; it must be {_wanted(kind)}.")
    return typed


def _wanted(kind: str) -> str:
    return {"int": "a whole number, 0 or more", "float": "a number, 0 or more", "str": "a text"}[kind]


def as_markdown() -> str:
    """docs/settings.md."""
    table = [f"| `{row.name}` | {row.metadata['default']} | {row.metadata['help']} |" for row in rows()]
    return "\n".join(
        [
            "# Settings",
            "",
            "Each can be set in the environment (`PARE_WORKERS=2`), else in `settings.toml` in the instance",
            "folder (`workers = 2`). This page is made by `python -m webapp.config > docs/settings.md`.",
            "",
            "| name | default | what it does |",
            "| --- | --- | --- |",
            *table,
            "",
        ]
    )


if __name__ == "__main__":
    print(as_markdown(), end="")
