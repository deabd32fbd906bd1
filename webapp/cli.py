"""The `pare` command. Each subcommand is a file in webapp/commands/, imported when it is called."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from webapp.engine.errors import PareError
from webapp.store.errors import StoreError

COMMANDS = {  # name: where it is
    "demo": "webapp.commands.serve",
    "serve": "webapp.commands.serve",
    "worker": "webapp.commands.worker",
    "deployer": "webapp.commands.deployer",
    "profile": "webapp.commands.profile",
    "compress": "webapp.commands.compress",
    "study": "webapp.commands.study",
    "inspect": "webapp.commands.inspect",
    "verify": "webapp.commands.verify",
    "doctor": "webapp.commands.doctor",
}


class LazyGroup(click.Group):
    """Imports a subcommand only when it is asked for: `pare --help` should not wait for torch."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[name]), name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="pare")
def pare() -> None:
    """Pare makes neural networks smaller, and proves what it did."""


def main() -> None:
    """Runs the command; an error is one sentence on stderr and exit status 1."""
    try:
        pare()
    except (PareError, StoreError) as error:
        click.echo(f"pare: {error.message}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
