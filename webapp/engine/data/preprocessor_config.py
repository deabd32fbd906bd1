"""The preprocessing that a Hugging Face folder tells in its preprocessor_config.json.

https://huggingface.co/docs/transformers/main_classes/image_processor
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .preprocessing import LARGEST_SIDE, Preprocessing

FILE = "preprocessor_config.json"
LIMIT_BYTES = 1_000_000
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's number
SMALL = 384  # ConvNeXT-type processors cut the centre out below this size


def told_preprocessing(folder: Path) -> Preprocessing | None:
    """None where the file is missing, or says what Pare does not know how to follow."""
    path = folder / FILE
    if not path.exists() or path.stat().st_size > LIMIT_BYTES:
        return None
    try:
        told = json.loads(path.read_bytes())
        return _read(told) if isinstance(told, dict) else None
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError, ZeroDivisionError, ValidationError):
        return None


def _read(told: Mapping[str, Any]) -> Preprocessing | None:
    size = told.get("size")
    if size is None or not told.get("do_resize", True):
        return None
    where: dict[str, Any]
    if told.get("crop_pct") and isinstance(size, dict) and "shortest_edge" in size and size["shortest_edge"] < SMALL:
        side = int(size["shortest_edge"])
        where = {"resize": "crop", "shortest": int(side / float(told["crop_pct"])), **_sides(side)}
    elif told.get("crop_pct"):
        where = {"resize": "stretch", **_sides(size)}
    elif told.get("do_center_crop"):
        inner = _sides(told.get("crop_size") or size)
        if isinstance(size, dict) and "shortest_edge" not in size:
            return None  # stretched first and cut afterwards
        shortest = int(size["shortest_edge"] if isinstance(size, dict) else size)
        where = {"resize": "crop", "shortest": shortest, **inner}
    elif isinstance(size, dict) and "height" not in size:
        return None  # a size that depends on the image
    else:
        where = {"resize": "stretch", **_sides(size)}
    where.setdefault("shortest", min(LARGEST_SIDE, max(where["height"], where["width"])))
    factor = float(told.get("rescale_factor", 1 / 255)) if told.get("do_rescale", True) else 1.0
    normalised = told.get("do_normalize", True) and told.get("image_mean") is not None
    mean, std = (told["image_mean"], told["image_std"]) if normalised else ([0.0], [1.0])
    if "EfficientNet" in str(told.get("image_processor_type")) and told.get("include_top", True):
        std = [float(s) ** 2 for s in std]  # it divides twice
    offset = 1.0 if told.get("rescale_offset") else 0.0  # x · factor - 1
    if told.get("do_rescale", True):  # written as 0 to 1, whatever the factor was
        mean = [(float(m) + offset) / (255 * factor) for m in mean]
        std = [float(s) / (255 * factor) for s in std]
    resample = told.get("resample", 2)
    return Preprocessing(
        **where,
        interpolation=RESAMPLE[int(resample)],  # type: ignore[arg-type]
        values="0 to 1" if told.get("do_rescale", True) else "0 to 255",
        mean=tuple(round(float(m), 10) for m in mean),
        std=tuple(round(float(s), 10) for s in std),
    )


def _sides(size: Any) -> dict[str, int]:
    if isinstance(size, Mapping):
        shortest = size.get("shortest_edge")
        return {"height": int(size.get("height", shortest)), "width": int(size.get("width", shortest))}
    return {"height": int(size), "width": int(size)}
