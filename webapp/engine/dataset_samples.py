"""Ten samples of the evaluation half, for the dataset's page; of pictures their pixels, for the preview.

The web process never decodes what a stranger sent: it draws these pixels, which the child process decoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .datasets import Half, LabelledText
from .images import Images
from .pictures import decoded
from .questions import Questions

SHOWN = 10
SHOWN_CHARACTERS = 400
SHOWN_FILE = "shown.npz"  # arr_0, arr_1, …: (height, width, 3) uint8
LARGEST_SIDE = 640  # of a shown picture; a larger one is made smaller for the preview only


def samples_of(half: Half, out: Path) -> tuple[dict[str, Any], ...]:
    """What is told of them, evenly from the half; pictures leave `shown.npz` in `out`."""
    if isinstance(half, Images):
        return _pictures(half, out)
    if isinstance(half, Questions):
        chosen = [half.questions[n] for n in _spread(len(half))]
        return tuple(
            {
                "context": _short(question.context),
                "choices": [_short(choice) for choice in question.choices],
                "answer": question.answer,
            }
            for question in chosen
        )
    if isinstance(half, LabelledText):
        labels = half.labels
        return tuple(
            {"text": _short(half.texts[n])} | ({"label": labels[n]} if labels is not None else {})
            for n in _spread(len(half))
        )
    return ()


def _pictures(half: Images, out: Path) -> tuple[dict[str, Any], ...]:
    told, pixels = [], []
    for n in _spread(len(half)):
        image = decoded(half.archive.read(half.names[n]))
        told.append({"label": half.labels[n], "width": image.width, "height": image.height})
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
        pixels.append(np.asarray(image))
    np.savez_compressed(out / SHOWN_FILE, *pixels)
    return tuple(told)


def shown_pictures(path: Path) -> list[Image.Image]:
    """The pictures of a `shown.npz`, in mode RGB."""
    with np.load(path, allow_pickle=False) as found:
        return [Image.fromarray(found[f"arr_{index}"]) for index in range(len(found.files))]


def _spread(have: int) -> list[int]:
    return sorted({index * have // SHOWN for index in range(SHOWN)}) if have > SHOWN else list(range(have))


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
