"""What a worker can, and what a run asks of one: memory for a child, and packages that not every machine has."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from webapp.config import InstallationSettings
from webapp.engine.errors import PareError, some
from webapp.engine.exporters import exporters
from webapp.engine.recipe import Recipe
from webapp.engine.techniques import techniques
from webapp.store.models import Profile, Run
from webapp.units import byte_text

RUNTIMES = {"torch": (), "transformers": (), "onnxruntime": (), "tensorflow": ("tensorflow-cpu",), "xllamacpp": ()}
DRIVER = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Needs:
    """Of a run or a profile. `memory_bytes` None: not known."""

    memory_bytes: int | None = None
    packages: frozenset[str] = frozenset()

    @classmethod
    def of(cls, row: Run | Profile) -> Needs:
        if not isinstance(row, Run):
            return cls()
        try:
            steps = {step.technique for step in Recipe.read(row.recipe).steps}
        except PareError:
            steps = set()  # whoever takes it finds out, and says so
        plug_ins = [exporters().get(name) for name in row.exports] + [techniques().get(name) for name in steps]
        packages = frozenset(name for each in plug_ins if each is not None for name in each.requires)
        return cls((row.needs or {}).get("memory_bytes"), packages)


@dataclass(frozen=True)
class Abilities:
    """Of a worker. `memory_bytes` is what one child may allocate; 0: without a limit."""

    memory_bytes: int = 0
    device: str = "cpu"
    runtimes: dict[str, str] = field(default_factory=dict)  # {package: version}

    @classmethod
    def here(cls, settings: InstallationSettings) -> Abilities:
        """Imports none of it."""
        declared = {name for each in (*exporters().values(), *techniques().values()) for name in each.requires}
        runtimes = {
            name: _version(name, *RUNTIMES.get(name, ()))
            for name in (*RUNTIMES, *sorted(declared - RUNTIMES.keys()))
            if find_spec(name) is not None
        }
        return cls(settings.run_memory_limit_bytes, _device(runtimes.get("torch", "")), runtimes)

    @classmethod
    def read(cls, kept: dict[str, Any] | None) -> Abilities:
        return cls(**(kept or {}))

    def kept(self) -> dict[str, Any]:
        return asdict(self)

    def fits(self, needs: Needs) -> bool:
        enough = not (self.memory_bytes and needs.memory_bytes and needs.memory_bytes > self.memory_bytes)
        return enough and needs.packages <= self.runtimes.keys()


def lacking(workers: Iterable[Abilities], needs: Needs) -> str | None:
    """Why none of the workers takes it, as a sentence; None where one does, or where there is none at all."""
    alive = list(workers)
    if not alive or any(each.fits(needs) for each in alive):
        return None
    reasons = []
    most = max(each.memory_bytes or sys.maxsize for each in alive)
    if needs.memory_bytes and needs.memory_bytes > most:
        reasons.append(f"it needs {byte_text(needs.memory_bytes)} of memory, and the largest has {byte_text(most)}")
    nowhere = sorted(needs.packages - {name for each in alive for name in each.runtimes})
    if nowhere:
        reasons.append(f"it needs {some(nowhere)}, which is installed for none")
    if not reasons:
        wanted = [*([byte_text(needs.memory_bytes)] if needs.memory_bytes else []), *sorted(needs.packages)]
        reasons.append(f"no single one has {' and '.join(wanted)}")
    return f"Waits for a worker that can do it: {'; '.join(reasons)}. Start one that can, or cancel and change the run."


def _version(*names: str) -> str:
    """Of a package, under one of the names that it is distributed by; "" where it does not tell."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def _device(torch: str) -> str:
    """What this version of torch could compute on here, without asking it: its import takes seconds."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    if hidden or torch.endswith("+cpu") or not DRIVER.is_dir():
        return "cpu"
    for told in sorted(DRIVER.glob("*/information")):
        model = next((line.partition(":")[2].strip() for line in told.read_text().splitlines() if "Model:" in line), "")
        return f"cuda ({model})" if model else "cuda"
    return "cpu"
