"""Ten samples of the evaluation split, for the dataset's page; of images their pixels, for the preview.

The web process never decodes what was uploaded: it draws these pixels, which the child process decoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from webapp.engine.lazy import Tensor, torch

from .datasets import Arrays, LabelledText, SampleSet
from .images import Images, decoded
from .questions import Questions

SHOWN = 10
SHOWN_CHARACTERS = 400
SHOWN_NUMBERS = 512  # of a row
SHOWN_FILE = "shown.npz"  # arr_0, arr_1, …: (height, width, 3) uint8
LARGEST_SIDE = 640  # of a shown image; a larger one is made smaller for the preview only


def samples_of(samples: SampleSet, out: Path) -> tuple[dict[str, Any], ...]:
    """What is told of them, evenly from the split; images leave `shown.npz` in `out`."""
    if isinstance(samples, Images):
        return _images(samples, out)
    if isinstance(samples, Arrays):
        return _arrays(samples, out)
    if isinstance(samples, Questions):
        chosen = [samples.questions[n] for n in _spread(len(samples))]
        return tuple(
            {
                "context": _short(question.context),
                "choices": [_short(choice) for choice in question.choices],
                "answer": question.answer,
            }
            for question in chosen
        )
    if isinstance(samples, LabelledText):
        labels = samples.labels
        return tuple(
            {"text": _short(samples.texts[n])} | (_target(torch.tensor(labels[n])) if labels is not None else {})
            for n in _spread(len(samples))
        )
    return ()


def _arrays(samples: Arrays, out: Path) -> tuple[dict[str, Any], ...]:
    """Arrays of one or three channels (N, C, H, W) are drawn, rows (N, F) told; of other shapes nothing is shown."""
    chosen = _spread(len(samples))
    told = [_target(samples.y[n]) if samples.y is not None else {} for n in chosen]
    if samples.x.dim() == 2:
        return tuple(each | {"numbers": _short_numbers(samples.x[n])} for each, n in zip(told, chosen, strict=True))
    if samples.x.dim() != 4 or samples.x.shape[1] not in (1, 3):
        return ()
    low, high = samples.value_range
    pixels = []
    for n in chosen:
        pixels.append(_pixels(drawn(samples.x[n], low, high)))
    np.savez_compressed(out / SHOWN_FILE, *pixels)
    height, width = samples.x.shape[2:]
    return tuple(each | {"width": width, "height": height} for each in told)


def drawn(x: Tensor, low: float, high: float) -> Image.Image:
    """(C, H, W) of one or three channels as an image in mode RGB: `low` is black, `high` white."""
    shares = ((x.double() - low) / max(high - low, 1e-30)).clamp(0, 1)
    colours = (shares * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0)
    return Image.fromarray(colours.contiguous().numpy())


def _target(y: Tensor) -> dict[str, Any]:
    """A class as "label", amounts as "target"; nothing of what has more than one axis."""
    if y.dim() == 0 and not y.is_floating_point():
        return {"label": int(y)}
    return {"target": _short_numbers(y.reshape(-1))} if y.dim() < 2 and y.is_floating_point() else {}


def _images(samples: Images, out: Path) -> tuple[dict[str, Any], ...]:
    told: list[dict[str, Any]] = []
    pixels = []
    for n in _spread(len(samples)):
        image = decoded(samples.archive.read(samples.names[n]))
        label = {} if samples.labels is None else {"label": samples.labels[n]}
        told.append(label | {"width": image.width, "height": image.height})
        pixels.append(_pixels(image))
    np.savez_compressed(out / SHOWN_FILE, *pixels)
    return tuple(told)


def _pixels(image: Image.Image) -> Any:
    """(height, width, 3) of an image that is made small enough to show."""
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def shown_images(path: Path) -> list[Image.Image]:
    """The images of a `shown.npz`, in mode RGB."""
    with np.load(path, allow_pickle=False) as found:
        return [Image.fromarray(found[f"arr_{index}"]) for index in range(len(found.files))]


def _spread(have: int) -> list[int]:
    return sorted({index * have // SHOWN for index in range(SHOWN)}) if have > SHOWN else list(range(have))


def _short_numbers(row: Tensor) -> list[float]:
    return [float(f"{number:.5g}") for number in row[:SHOWN_NUMBERS].tolist()]


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
