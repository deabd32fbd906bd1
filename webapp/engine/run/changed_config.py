"""The files that travel with the weights, where a step made them untrue: a config.json with the new widths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from webapp.engine.architectures.transformers_family import NO_POOLING
from webapp.engine.weights.model import Model

CONFIG = "config.json"


def write_companions(model: Model, original: Path, before: dict[str, Any] | None, folder: Path) -> list[str]:
    """Writes into `folder` what differs from the checkpoint's own files in `original`; returns the names.

    `before` is the config of the architecture as it was uploaded. Heads, widths and blocks that were cut are in the
    config of today's, and stock `from_pretrained` reads them from there.
    """
    spec, path = model.architecture, original / CONFIG
    if spec is None or before is None or spec.config == before or not path.exists():
        return []
    changed = {key: value for key, value in spec.config.items() if before.get(key) != value and key != NO_POOLING}
    config = json.loads(path.read_text(encoding="utf8")) | changed
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")
    return [CONFIG]
