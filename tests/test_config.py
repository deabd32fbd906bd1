"""Every setting is one row: named with its unit, defaulted, explained; the environment wins over the file."""

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from webapp.cli import pare
from webapp.config import InstallationSettings, SettingInvalid, as_markdown, kept_secret, memory_bytes, rows

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", rows())
def test_every_setting_has_help_and_a_default_that_can_be_shown(name):
    field = rows()[name]
    assert field.description.endswith(".")
    assert len(field.description) > 20
    assert field.json_schema_extra["shown"]


@pytest.mark.parametrize("name", rows())
def test_a_number_that_has_a_unit_carries_it_in_its_name(name):
    help = rows()[name].description
    for word in ("seconds", "bytes"):
        if f"in {word}" in help or f"many {word}" in help:
            assert name.endswith(word)


def test_the_page_of_the_settings_is_the_settings():
    assert (ROOT / "docs/settings.md").read_text() == as_markdown(), "python -m webapp.config > docs/settings.md"


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path, monkeypatch):
    assert InstallationSettings.load(tmp_path).workers == 1
    (tmp_path / "settings.toml").write_text("workers = 2\nheartbeat_seconds = 1.5\n")
    assert InstallationSettings.load(tmp_path).workers == 2
    monkeypatch.setenv("PARE_WORKERS", "3")
    settings = InstallationSettings.load(tmp_path)
    assert (settings.workers, settings.heartbeat_seconds) == (3, 1.5)


def test_what_is_not_set_follows_from_the_instance(tmp_path):
    settings = InstallationSettings.load(tmp_path / "new" / "instance")
    assert settings.database_url == f"sqlite:///{tmp_path}/new/instance/pare.db"
    assert settings.jobs_database_url != settings.database_url
    assert Path(settings.files_url) == tmp_path / "new/instance/files"
    assert 0 < settings.run_memory_limit_bytes < memory_bytes()
    assert settings.threads(workers_here=1) >= 1


def test_with_postgresql_the_jobs_share_the_database(tmp_path):
    url = "postgresql://pare@db/pare"
    assert InstallationSettings.load(tmp_path, database_url=url).jobs_database_url == url


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("wrokers = 2", "sets wrokers, which Pare does not know"),
        ("workers = 'many'", "is 'many'; it must be a whole number"),
        ("heartbeat_seconds = 0", "is 0; it must be a number of seconds above 0"),
        ("workers = 1.5", "is 1.5; it must be a whole number"),
        ("workers = true", "is True; it must be a whole number"),
        ("workers = -1", "is -1; it must be a whole number, 0 or more"),
        ("client_idle_seconds = true", "is True; it must be a number of seconds"),
        ("log_level = true", "is True; it must be DEBUG, INFO, WARNING, ERROR or CRITICAL"),
        ('log_level = "loud"', "is 'loud'; it must be DEBUG, INFO, WARNING, ERROR or CRITICAL"),
        ("import_folders = ['models']", "it must be a list of folders, each by its whole path"),
        ("import_folders = [3]", "it must be a list of folders, each by its whole path"),
        ("hub_url = 'huggingface.co'", "it must be an address, such as https://huggingface.co"),
        ("hub_url = 'https://token@huggingface.co'", "it must be an address, such as https://huggingface.co"),
        ("workers = ", "is not valid TOML"),
        ("instance = 'elsewhere'", "sets instance, which Pare does not know"),
    ],
)
def test_a_wrong_file_is_refused_by_the_name_of_what_is_wrong(tmp_path, written, sentence):
    (tmp_path / "settings.toml").write_text(written)
    with pytest.raises(SettingInvalid, match=sentence):
        InstallationSettings.load(tmp_path)


def test_a_wrong_value_in_the_environment_is_refused_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("PARE_HEARTBEAT_SECONDS", "often")
    with pytest.raises(SettingInvalid, match="PARE_HEARTBEAT_SECONDS in the environment is 'often'; it must be a num"):
        InstallationSettings.load(tmp_path)


def test_a_name_in_small_letters_counts_in_the_environment_too_and_is_named_so(tmp_path, monkeypatch):
    monkeypatch.setenv("pare_workers", "two")
    with pytest.raises(SettingInvalid, match="pare_workers in the environment is 'two'"):
        InstallationSettings.load(tmp_path)


def test_folders_are_a_list_in_the_file_and_have_colons_between_in_the_environment(tmp_path, monkeypatch):
    (tmp_path / "settings.toml").write_text('import_folders = ["/models", "~/more"]')
    assert InstallationSettings.load(tmp_path).import_folders == (Path("/models"), Path.home() / "more")
    monkeypatch.setenv("PARE_IMPORT_FOLDERS", "/a:/b")
    assert InstallationSettings.load(tmp_path).import_folders == (Path("/a"), Path("/b"))


def test_what_is_read_of_the_machine_lies_in_the_named_folders_links_followed(tmp_path):
    named = tmp_path / "named"
    named.mkdir()
    (named / "in").touch()
    (named / "out").symlink_to(tmp_path)
    (tmp_path / "way in").symlink_to(named / "in")
    settings = InstallationSettings.load(tmp_path / "i", import_folders=[str(named)])
    assert settings.may_import(named / "in")
    assert settings.may_import(tmp_path / "way in")
    for outside in (tmp_path, named / "out", named / "out" / "i", named / ".." / "i", Path("/etc/passwd")):
        assert not settings.may_import(outside)


def test_an_instance_that_cannot_be_a_folder_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingInvalid, match="cannot be made"):
        InstallationSettings.load(tmp_path / "file")


def test_the_secret_is_made_once_readable_by_its_owner_alone_and_never_printed(tmp_path):
    settings = InstallationSettings.load(tmp_path)
    assert InstallationSettings.load(tmp_path).secret_key == settings.secret_key
    assert len(settings.secret_key) == 64
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600
    assert settings.secret_key not in repr(settings)


def test_processes_that_start_at_once_agree_on_the_secret(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: kept_secret(tmp_path / "secret_key"), range(32)))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]


def test_reading_settings_is_quick_because_it_imports_no_torch(tmp_path):
    code = "import sys, webapp.config, webapp.jobs.client; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_compose_file_of_the_docs_knows_the_settings_and_the_commands():
    text = (ROOT / "docs" / "operating.md").read_text()
    services = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])["services"]
    settings = {f"PARE_{name.upper()}" for name in (*rows(), "instance")}
    for name in ("web", "worker"):
        assert {key for key in services[name]["environment"] if key.startswith("PARE_")} <= settings
        program, command, *options = services[name]["command"].split()
        assert program == "pare"
        parsed = pare.get_command(None, command).make_context(command, options)
        assert parsed.info_name == command
    assert services["web"]["command"].endswith("--workers 0")
    for service in services.values():
        assert set(service.get("depends_on", {})) <= services.keys()
