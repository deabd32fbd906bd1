"""Images as a split of a dataset: the files as they were uploaded, in a zip that anything reads, decoded when read.

Nothing is resized when they are stored, so a model that takes 384 pixels and one that takes 224 are judged on the same
images, each prepared once and from the original.

They are untrusted: their declared size is looked at before a pixel is decoded, and only the child does that. Any mode
becomes RGB: CMYK and palettes are converted, 16-bit grey loses its lower byte, transparency is dropped (as ImageFolder
of torchvision does), of an animation the first frame is taken, and EXIF's orientation is applied.
"""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from webapp.engine.errors import DatasetUnfit
from webapp.engine.lazy import Tensor, torch

from .preprocessing import Preprocessing

INDEX = "index.json"  # in the zip: what the names of its files do not say
WRITTEN_AT = (1980, 1, 1, 0, 0, 0)  # the same images give the same bytes
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


@dataclass(frozen=True)
class Images:
    """`names` are files in `archive`, in the split's order; `digests` are of their pixels."""

    archive: zipfile.ZipFile
    names: Sequence[str]
    labels: Sequence[float] | None  # class numbers, or amounts
    digests: Sequence[str]
    preprocessing: Preprocessing | None = None  # how a model is given them; None while nobody asks for numbers

    def __len__(self) -> int:
        return len(self.names)

    def hashes(self) -> Iterator[str]:
        yield from self.digests

    def only(self, keep: list[bool]) -> Images:
        return self.at([index for index, kept in enumerate(keep) if kept])

    def at(self, numbers: Sequence[int]) -> Images:
        """These of them, in this order."""
        return replace(
            self,
            names=[self.names[n] for n in numbers],
            labels=None if self.labels is None else [self.labels[n] for n in numbers],
            digests=[self.digests[n] for n in numbers],
        )

    def renumbered(self, numbers: Sequence[float]) -> Images:
        return self if self.labels is None else replace(self, labels=[numbers[int(label)] for label in self.labels])

    def joined(self, other: Images) -> Images:
        """These, then those of another split of the same archive."""
        return replace(
            self,
            names=[*self.names, *other.names],
            labels=None if self.labels is None or other.labels is None else [*self.labels, *other.labels],
            digests=[*self.digests, *other.digests],
        )

    def numbers(self, start: int, end: int) -> tuple[Tensor, Tensor | None]:
        """x (n, C, height, width) float32 and y (n,), or None, of the images `start` to `end`. Raises DatasetUnfit."""
        if self.preprocessing is None:
            raise DatasetUnfit("Images need a preprocessing before a model can be given them.")
        fitted = (self.preprocessing.fitted(decoded(self.archive.read(name))) for name in self.names[start:end])
        x = torch.from_numpy(np.stack([self.preprocessing.numbers(image) for image in fitted]))
        return x, None if self.labels is None else torch.tensor(self.labels[start:end])


def write_images(samples: Images, path: Path) -> None:
    """A stored zip: 0.jpg, 1.png, … and an index of labels and digests."""
    with zipfile.ZipFile(path, "w") as archive:
        names = [f"{index}{PurePosixPath(name).suffix.lower()}" for index, name in enumerate(samples.names)]
        for name, source in zip(names, samples.names, strict=True):
            archive.writestr(zipfile.ZipInfo(name, WRITTEN_AT), samples.archive.read(source))
        index = {
            "names": names,
            "labels": None if samples.labels is None else list(samples.labels),
            "digests": list(samples.digests),
        }
        archive.writestr(zipfile.ZipInfo(INDEX, WRITTEN_AT), json.dumps(index))


def open_images(path: Path, preprocessing: Preprocessing | None) -> Images:
    """What `write_images` wrote."""
    archive = zipfile.ZipFile(path)
    return Images(archive, **json.loads(archive.read(INDEX)), preprocessing=preprocessing)
