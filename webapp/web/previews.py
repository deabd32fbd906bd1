"""Sample images of a dataset, drawn from the pixels that inspection left: for its page, and as a model sees them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from webapp.engine.data.preprocessing import Preprocessing
from webapp.engine.data.samples import LARGEST_SIDE, SHOWN_FILE, shown_images
from webapp.engine.facts import DatasetFacts
from webapp.store.files import FileStore
from webapp.store.models import Dataset

THUMBNAIL = (160, 160)


def images_of(files: FileStore, dataset: Dataset) -> list[Image.Image]:
    """Empty where the dataset holds none."""
    shown = dataset.files.get(SHOWN_FILE)
    return shown_images(files.path(shown["digest"])) if shown else []


def thumbnails(files: FileStore, dataset: Dataset) -> list[str]:
    """As data: addresses."""
    found = images_of(files, dataset)
    for image in found:
        image.thumbnail(THUMBNAIL)
    return [data_address(image) for image in found]


def seen_by_the_model(files: FileStore, dataset: Dataset, asked: Preprocessing) -> list[dict[str, Any]]:
    """For each sample what is cut out of it, as a data: address, and the numbers that the model is given."""
    facts, found = DatasetFacts.model_validate(dataset.facts), []
    for told, image in zip(facts.samples, images_of(files, dataset), strict=True):
        fitted = asked.fitted(image)
        pixels = np.asarray(fitted).reshape(-1, asked.shape[0])  # (height · width, C) uint8
        extremes = np.stack([pixels.min(0), pixels.max(0), pixels.mean(0)]).T  # (C, 3)
        numbers = asked.normalised(extremes[:, None].astype(np.float32))
        fitted.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        found.append(
            {
                "image": data_address(fitted),
                "label": facts.labels[told["label"]] if facts.labels and "label" in told else "",
                "low": float(numbers.min()),
                "high": float(numbers.max()),
                "mean": float(numbers[..., 2].mean()),
            }
        )
    return found


def data_address(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
