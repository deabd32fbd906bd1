"""Images in requests, as TensorFlow Serving takes bytes, {"b64": "…"}; prepared as in its evaluation."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np

from webapp.engine.data.images import MOST_BYTES, ImageUnread, decoded
from webapp.engine.data.preprocessing import Preprocessing

from .errors import Refused
from .tensors import Array

BYTES = "b64"


def batch_of(images: Any, preprocessing: Preprocessing, field: str) -> Array:
    """(n, C, height, width) float32 of base64 texts of whole files: JPEG, PNG, … Raises Refused."""
    if not isinstance(images, list) or not images or not all(isinstance(each, str) for each in images):
        raise Refused('Each image has to be {"b64": "…"}: its whole file in base64.', field)
    return np.stack([_prepared(each, preprocessing, f"{field}.{place}") for place, each in enumerate(images)])


def _prepared(text: str, preprocessing: Preprocessing, field: str) -> Array:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("The image is not in base64.", field) from None
    if len(content) > MOST_BYTES:
        raise Refused(f"The image has {len(content):,} bytes; at most {MOST_BYTES:,} are read.", field)
    try:
        return preprocessing.numbers(preprocessing.fitted(decoded(content)))
    except ImageUnread as error:
        raise Refused(f"The file {error}.", field) from None
