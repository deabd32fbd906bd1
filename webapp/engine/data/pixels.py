"""Untrusted images: their declared size is looked at before a pixel is decoded. Only the child does this.

Any mode becomes RGB: CMYK and palettes are converted, 16-bit grey loses its lower byte, transparency is dropped (as
torchvision's ImageFolder does), of an animation the first frame is taken, and EXIF's orientation is applied.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MOST_PIXELS = 64_000_000  # 192 MB as RGB; beyond it nothing is decoded
MOST_BYTES = 100_000_000  # of one file
MOST_RATIO = 100  # of its sides; brought to a model's shape, nothing would be left of a thinner one
DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,  # what Pillow's PNG reader raises for a broken chunk
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    NotImplementedError,
    EOFError,
    struct.error,
    zlib.error,
)


class ImageUnread(Exception):
    """A file that is no image, or a damaged one. Its message completes "x.png …"."""


class ImageBomb(ImageUnread):
    """An image that declares more pixels than anyone decodes."""


def decoded(content: bytes) -> Image.Image:
    """The image in mode RGB, upright. Raises ImageUnread or ImageBomb."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning)  # about metadata, which is not read
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise ImageBomb(f"declares {width} × {height} pixels; at most {MOST_PIXELS:,} are decoded")
                if max(image.size) > MOST_RATIO * min(image.size):
                    raise ImageUnread(
                        f"has {width} × {height} pixels; one side may be {MOST_RATIO} times the other at most"
                    )
                image.load()
                return _rgb(ImageOps.exif_transpose(image))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageBomb(f"declares more than the {MOST_PIXELS:,} pixels that are decoded") from error
        except UnidentifiedImageError as error:
            raise ImageUnread("is not an image that can be read") from error
        except DAMAGED as error:
            raise ImageUnread(f"is damaged ({str(error)[:100] or type(error).__name__})") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
    elif image.mode == "F":
        raise ImageUnread("holds floating-point pixels; save it with 8 or 16 bits per channel")
    elif image.mode == "P":
        image = image.convert("RGBA")
    return image.convert("RGB")
