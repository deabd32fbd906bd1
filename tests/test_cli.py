"""The commands: each has help, and what is wrong is one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from webapp.cli import COMMANDS, pare
from webapp.config import InstallationSettings
from webapp.store.database import make_engine, make_sessions, upgrade
from webapp.store.models import RunState, Webhook, WebhookDelivery

ROOT = Path(__file__).parents[1]


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "webapp.cli", *arguments], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_so_has_every_option(name):
    found = pare.get_command(None, name)
    assert found.name == name
    assert found.help
    options = [parameter for parameter in found.params if parameter.param_type_name == "option"]
    assert all(option.help for option in options)


def test_help_comes_without_waiting_for_torch():
    code = "from webapp.cli import pare; pare(['--help'], standalone_mode=False); import sys; "
    check = "assert 'torch' not in sys.modules"
    said = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "serve" in said.stdout


def test_doctor_finds_nothing_wrong_here(tmp_path):
    said = CliRunner().invoke(pare, ["doctor", "--instance", str(tmp_path)])
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert all(line.startswith("  ok  ") for line in lines)
    for check in ("versions", "instance", "memory", "torch", "database", "files", "workers", "webhooks"):
        assert any(f"  ok  {check}: " in line for line in lines)


def test_doctor_says_what_is_wrong_and_goes_on(tmp_path):
    (tmp_path / "settings.toml").write_text(
        'database_url = "postgresql://pare@127.0.0.1:1/pare"\nmin_free_bytes = 1000000000000000\n'
    )
    said = CliRunner().invoke(pare, ["doctor", "--instance", str(tmp_path)])
    assert said.exit_code == 1
    wrong = [line for line in said.output.splitlines() if line.startswith("WRONG")]
    assert [line.split()[1] for line in wrong] == ["instance:", "database:", "workers:", "webhooks:"]
    assert "cannot be used" in wrong[1]
    assert "ok  torch" in said.output


def test_doctor_says_which_webhook_is_not_called_any_more_and_does_not_show_its_address(tmp_path):
    engine = make_engine(InstallationSettings.load(tmp_path).database_url)
    upgrade(engine)
    with make_sessions(engine).begin() as session:
        session.add(Webhook(url="http://127.0.0.1:9/secret", events=["run.failed"], own_address="http://localhost"))
    said = CliRunner().invoke(pare, ["doctor", "--instance", str(tmp_path)])
    assert "to 127.0.0.1: 127.0.0.1 is not a public address" in said.output
    assert "secret" not in said.output
    (tmp_path / "settings.toml").write_text('webhook_networks = "127.0.0.1"')
    said = CliRunner().invoke(pare, ["doctor", "--instance", str(tmp_path)])
    assert "to 127.0.0.1 can be looked up" in said.output
    with make_sessions(engine).begin() as session:
        webhook_id = session.scalar(select(Webhook.id))
        ended = {"event": "test", "subject": "", "body": "", "state": RunState.FAILED, "error": "It is away."}
        session.add(WebhookDelivery(webhook_id=webhook_id, **ended))
    engine.dispose()
    said = CliRunner().invoke(pare, ["doctor", "--instance", str(tmp_path)])
    assert "the last message was given up. It is away." in said.output


@pytest.mark.parametrize("name", ["serve", "worker", "doctor"])
def test_an_unknown_setting_is_one_sentence(tmp_path, name):
    (tmp_path / "settings.toml").write_text("wrokers = 2")
    said = command(name, "--instance", str(tmp_path))
    assert said.returncode == 1
    assert said.stderr.startswith("pare: ")
    assert "sets wrokers, which Pare does not know" in said.stderr
    assert len(said.stderr.splitlines()) == 1
