"""`make attack`: stalls, hostile files, kills, many machines and a full disk, with the figures of each."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks import full_disk, kills, machines, stalls, uploads
from tests.pare_process import serving


def main(names: list[str]) -> int:
    failed = 0
    with tempfile.TemporaryDirectory(prefix="pare-attack-") as given:
        for name, attack in ATTACKS.items():
            if names and name not in names:
                continue
            begun = time.monotonic()
            print(f"== {name}", flush=True)
            try:
                attack(Path(given, name))
                print(f"   stood it, in {time.monotonic() - begun:.0f} s", flush=True)
            except pytest.skip.Exception as reason:
                print(f"   not tried: {reason}", flush=True)
            except (AssertionError, OSError) as error:
                failed += 1
                print(f"   FAILED: {error}", flush=True)
    return min(failed, 1)


def at_a_running(attack: Callable[[str], None]) -> Callable[[Path], None]:
    def begin(folder: Path) -> None:
        with serving(folder) as served:
            attack(served.url)

    return begin


ATTACKS: dict[str, Callable[[Path], None]] = {
    "stalls": at_a_running(stalls.main),
    "uploads": at_a_running(uploads.main),
    "kills": kills.main,
    "kills_of_a_study": kills.of_a_study,
    "kills_at_every_stage": kills.at_every_stage,
    "machines": machines.main,
    "full_disk": full_disk.main,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
