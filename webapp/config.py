"""Every setting once: its name (units included), its default and a sentence of help.

A value comes from the environment (`PARE_` and the name in capitals), else from `settings.toml` in the
instance folder, else from the default. `python -m webapp.config` prints docs/settings.md.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import tempfile
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from webapp.engine.errors import PareError

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Folders = tuple[Path, ...]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
WANTED: dict[Any, str] = {
    int: "a whole number, 0 or more",
    float: "a number of seconds above 0",
    str: "a text",
    Folders: "a list of folders, each by its whole path",
    LogLevel: "DEBUG, INFO, WARNING, ERROR or CRITICAL",
}
FILE_NAME = "settings.toml"


class SettingInvalid(PareError, code="setting_invalid", status=500):
    """A setting is unknown, or its value is not what it should be."""


def setting(default: Any, help: str, shown: str = "", secret: bool = False) -> Any:
    """A row. A `default` that is a function is given the values before it, and `shown` says in words what it finds.

    Secrets are never printed.
    """
    way = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**way, description=help, json_schema_extra={"shown": shown or str(default)}, repr=not secret)


def cores() -> int:
    """Those that this process may compute on; OMP_NUM_THREADS may want fewer."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(allowed, int(wanted) or allowed) if wanted.isdigit() else allowed


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


class InstallationSettings(BaseSettings):
    """What one installation is told. Made by `load`."""

    model_config = SettingsConfigDict(env_prefix="PARE_", frozen=True, coerce_numbers_to_str=True)

    instance: Path

    database_url: str = setting(
        lambda s: f"sqlite:///{s['instance'] / 'pare.db'}",
        "Where checkpoints, runs and results are kept, as an SQLAlchemy URL (SQLite or postgresql+psycopg).",
        shown="pare.db in the instance folder",
    )
    jobs_database_url: str = setting(
        lambda s: (
            f"sqlite:///{s['instance'] / 'jobs.db'}" if s["database_url"].startswith("sqlite") else s["database_url"]
        ),
        "Where the job system keeps its own tables.",
        shown="jobs.db in the instance folder for SQLite, else the same as database_url",
    )
    files_url: str = setting(
        lambda s: str(s["instance"] / "files"),
        "Where checkpoints and artifacts are kept: a folder, or any fsspec URL such as s3://bucket/pare.",
        shown="the folder files in the instance folder",
    )
    max_upload_bytes: Count = setting(20_000_000_000, "The largest file that can be uploaded, in bytes.")
    max_unpacked_bytes: Count = setting(
        40_000_000_000, "The most that an uploaded archive may hold once unpacked, in bytes."
    )
    import_folders: Annotated[Folders, NoDecode] = setting(
        (),
        "Folders of this machine whose checkpoints can be chosen on the upload page and used where they lie, hashed "
        "but not copied; Hugging Face's cache can be among them. In the environment with colons between. Whoever may "
        "upload may then use and download the models in them.",
        shown="none",
    )
    hub_url: str = setting(
        "",
        "The Hugging Face hub whose models can be taken in by name, and to which results can be pushed, such as "
        "https://huggingface.co. Without it no hub is ever asked.",
        shown="none",
    )
    hub_token: str = setting(
        "",
        "The hub's access token with which this installation reads models, and pushes results: whoever uses Pare does "
        "so in its name.",
        shown="none",
        secret=True,
    )
    webhook_networks: str = setting(
        "",
        "The networks or addresses that webhooks may call beside public ones, with commas between, such as 10.1.0.0/16 "
        "or 127.0.0.1. Whoever uses Pare can have a worker send requests there.",
        shown="none",
    )
    min_free_bytes: Count = setting(
        200_000_000, "Nothing is stored that would leave less than this free on the disk, in bytes."
    )
    run_memory_limit_bytes: Count = setting(
        lambda s: memory_bytes() * 8 // 10,
        "The memory that the process which compresses may allocate, in bytes; a run that needs more fails and says so.",
        shown="80 % of the memory of the machine or its control group",
    )
    inspection_memory_bytes: Count = setting(
        2_000_000_000,
        "The memory that the inspection of an upload may allocate beside sixteen times its size (unpacked), in "
        "bytes; never more than run_memory_limit_bytes.",
    )
    inspection_seconds: Seconds = setting(
        120.0,
        "How long the inspection of an upload may take, in seconds; it gets one more for every megabyte of the upload.",
    )
    inspections_at_once: Count = setting(
        2, "How many uploads a worker inspects at once; besides, as many models come from a hub or go there."
    )
    workers: Count = setting(1, "How many worker processes `pare serve` starts; each does one run at a time.")
    threads_per_child: Count = setting(
        0,
        "How many threads one compressing process computes with; 0: the cores, or as many as OMP_NUM_THREADS allows, "
        "divided by the workers on this machine.",
    )
    timing_seconds: Seconds = setting(
        3.0,
        "How long a written file is timed beside the original, in seconds; timed again, up to four times as long in "
        "all, where other programs disturb it.",
    )
    child_restarts: Count = setting(3, "How often a stage whose process was killed from outside is started again.")
    cancel_poll_seconds: Seconds = setting(0.5, "How often a worker looks whether its run was cancelled, in seconds.")
    progress_interval_seconds: Seconds = setting(
        0.5, "The least time between two notes of a run's progress, in seconds."
    )
    queue_poll_seconds: Seconds = setting(0.5, "How often an idle worker looks for work, in seconds.")
    heartbeat_seconds: Seconds = setting(5.0, "How often a worker says that it is alive, in seconds.")
    worker_stale_seconds: Seconds = setting(
        30.0, "After this many seconds without a sign of life, a worker's run is taken over by another."
    )
    sweep_interval_seconds: Seconds = setting(
        3600.0, "How often files that nothing refers to are looked for, in seconds."
    )
    sweep_age_seconds: Seconds = setting(
        86400.0, "How old a file that nothing refers to gets before it is deleted, in seconds."
    )
    max_request_bytes: Count = setting(
        64_000_000,
        "The largest request that a deployed model takes, in bytes; the process that serves it holds it in memory.",
    )
    request_timeout_seconds: Seconds = setting(
        120.0, "How long a deployed model may be silent before its client is told that it does not answer, in seconds."
    )
    transfers_at_once: Count = setting(
        16,
        "How many uploads and downloads may be on their way at once; more are asked to come again (503). Pages are "
        "answered besides.",
    )
    client_idle_seconds: Seconds = setting(
        30.0, "How long a client may send or take nothing before its connection is ended, in seconds."
    )
    secret_key: str = setting(
        lambda s: kept_secret(s["instance"] / "secret_key"),
        "Signs the session cookie and the form tokens. Whoever knows it can forge them.",
        shown="made once, in the file secret_key of the instance folder",
        secret=True,
    )
    trusted_hosts: str = setting(
        "",
        "The names by which browsers may reach Pare beside localhost, this machine's own name and any IP address, "
        "with commas between; another one is refused. * takes any name.",
        shown="none",
    )
    access_token: str = setting(
        "",
        "What a browser signs in with and a program sends as Authorization: Bearer; 16 characters or more. Where "
        "it is set it is asked for, also on this machine alone.",
        shown="none on this machine alone; beyond it made once, in the file access_token of the instance folder",
        secret=True,
    )
    log_level: LogLevel = setting(
        "INFO", "How much the server and the workers say: DEBUG, INFO, WARNING, ERROR or CRITICAL."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any) -> Any:
        if isinstance(value, bool):  # which would count as 0 or 1
            raise ValueError
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, value: Any) -> Any:
        return next((level for level in get_args(LogLevel) if level == str(value).upper()), value)

    @field_validator("import_folders", mode="before")
    @classmethod
    def _whole_paths(cls, value: Any) -> Any:
        given = [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value
        if not isinstance(given, list | tuple) or not all(isinstance(part, str | Path) for part in given):
            raise ValueError
        folders = tuple(Path(part).expanduser() for part in given)
        if not all(folder.is_absolute() for folder in folders):
            raise ValueError
        return folders

    @field_validator("hub_url")
    @classmethod
    def _an_address(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
            raise SettingInvalid(
                f"hub_url is {value!r}; it must be an address, such as https://huggingface.co.", "hub_url"
            )
        return value

    @field_validator("webhook_networks")
    @classmethod
    def _networks(cls, value: str) -> str:
        for each in filter(None, (part.strip() for part in value.split(","))):
            try:
                ip_network(each)
            except ValueError as error:
                raise SettingInvalid(
                    f"webhook_networks names {each!r}, which is no network such as 10.1.0.0/16 ({error}).",
                    "webhook_networks",
                ) from error
        return value

    @field_validator("access_token")
    @classmethod
    def _hard_to_guess(cls, value: str) -> str:
        if value and not re.fullmatch("[!-~]{16,}", value):
            raise SettingInvalid("access_token must have 16 or more ASCII characters, without spaces.", "access_token")
        return value

    @classmethod
    def load(cls, instance: Path | None = None, **given: Any) -> Self:
        """The settings of the installation in the folder `instance`, which is made where it is missing.

        Without it, of the one that `PARE_INSTANCE` names, else `instance` here. What is `given` counts before all else.
        """
        instance = (instance or Path(os.environ.get("PARE_INSTANCE", "instance"))).expanduser().absolute()
        try:
            instance.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingInvalid(f"The instance folder {instance} cannot be made: {error.strerror}.") from error
        try:
            return cls(instance=instance, **given)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            variable = next((each for each in os.environ if each.upper() == f"PARE_{name}".upper()), None)
            source = f"{variable} in the environment" if variable else f"{name} in {instance / FILE_NAME}"
            found = f"{name if name in given else source} is {first['input']!r}"
            wanted = WANTED[cls.model_fields[name].annotation]
            raise SettingInvalid(f"{found}; it must be {wanted}.", name) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        **_: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = init_settings()["instance"] / FILE_NAME
        try:
            file = TomlConfigSettingsSource(settings_cls, path)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingInvalid(f"{path} is not valid TOML: {error}.") from error
        for name in file().keys() - rows():
            known = ", ".join(rows())
            raise SettingInvalid(f"{path} sets {name}, which Pare does not know; it knows {known}.", name)
        return init_settings, env_settings, file

    def may_import(self, path: Path) -> bool:
        """Whether what is at the path, links followed, lies in one of import_folders."""
        real = path.resolve()
        return any(real.is_relative_to(folder.resolve()) for folder in self.import_folders)

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


def rows() -> dict[str, FieldInfo]:
    """The settings, in order."""
    return {name: field for name, field in InstallationSettings.model_fields.items() if name != "instance"}


def as_markdown() -> str:
    """docs/settings.md."""
    table = [
        f"| `{name}` | {field.json_schema_extra['shown']} | {field.description} |" for name, field in rows().items()
    ]
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
