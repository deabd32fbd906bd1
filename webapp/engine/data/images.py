"""Images as a split of a dataset: the files as they were uploaded, in a zip that anything reads, decoded when read.

Nothing is resized when they are stored, so a model that takes 384 pixels and one that takes 224 are judged on the same
images, each prepared once and from the original.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from webapp.engine.errors import DatasetUnfit
from webapp.engine.lazy import Tensor, torch

from .pixels import decoded
from .preprocessing import Preprocessing

INDEX = "index.json"  # in the zip: what the names of its files do not say
WRITTEN_AT = (1980, 1, 1, 0, 0, 0)  # the same images give the same bytes


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
