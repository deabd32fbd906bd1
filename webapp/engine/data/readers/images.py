"""A zip of images, in a folder per class or without classes, perhaps with train/ and test/ above.

Each is decoded once, to be sure.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from webapp.engine.archive import damage_named, members
from webapp.engine.data.images import MOST_BYTES, SUFFIXES, ImageBomb, Images, ImageUnread, decoded
from webapp.engine.errors import DatasetRefused, some
from webapp.engine.plugins import Accepted
from webapp.engine.progress import Report

from .text import numbered

MOST_FILES = 100_000
TRAINING_NAMES = ("train", "training")
EVALUATION_NAMES = ("test", "eval", "evaluation", "val", "valid", "validation")
ACCEPTS = Accepted(
    (".zip",),
    "Images",
    "A folder for each class, for classification; train/ and test/ or val/ above the folders keep their own split. "
    "Or images without classes.",
)
HIDDEN = ("__MACOSX", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Found:
    """An image in the archive, in the part ("evaluation", "training") and of the class that its folders say."""

    name: str
    part: str
    label: str


def read_images(
    upload: Path, filename: str, notes: list[str], report: Report
) -> tuple[Images, Images | None, tuple[str, ...] | None]:
    """(all of it or the evaluation split, the part given to train, class names or None). Raises DatasetRefused."""
    archive, inside = members(upload, filename, DatasetRefused, MOST_FILES, "a dataset")
    found = _by_folder(inside, filename, notes)
    digests = _checked(archive, inside, found, filename, notes, report)
    found = [one for one in found if one.name in digests]
    classes, labels, number = {one.label for one in found}, None, None
    if len(classes) > 1:
        numbers, labels = numbered([one.label for one in found], filename)
        number = dict(zip((one.label for one in found), numbers, strict=True))
    elif folder := classes.pop():
        notes.append(f"All images lie in one folder, {folder}, so they are taken without classes.")
    else:
        notes.append("The images lie in no folders, so they are taken without classes.")
    parts = {
        part: _samples(archive, [one for one in found if one.part == part], number, digests)
        for part in dict.fromkeys(one.part for one in found)
    }
    if absent := sorted({one.label for one in found} - {one.label for one in found if one.part == "evaluation"}):
        notes.append(f"No image of {some(absent, 3)} evaluates.")
    if "evaluation" not in parts:
        raise DatasetRefused(f"{filename} has no image in the evaluation split that could be read")
    return parts["evaluation"], parts.get("training"), labels


def _by_folder(inside: Mapping[str, zipfile.ZipInfo], filename: str, notes: list[str]) -> list[Found]:
    """What seems to be an image by its name, with the class that its folder is called after."""
    shown = {n: PurePosixPath(n).parts for n in inside if not _hidden(n)}
    images = {name: parts for name, parts in shown.items() if name.lower().endswith(SUFFIXES)}
    if others := sorted(set(shown) - set(images)):
        notes.append(f"Not used, since they are no images: {some(others, 3)}.")
    if not images:
        raise DatasetRefused(
            f"{filename} is a zip without NumPy arrays or images; zip a folder per class with its images in it"
        )
    while len({parts[0] for parts in images.values()}) == 1 and any(len(parts) > 2 for parts in images.values()):
        images = {name: parts[1:] for name, parts in images.items()}
    tops = {parts[0].lower() for parts in images.values() if len(parts) > 2}
    training = next((name for name in TRAINING_NAMES if name in tops), None)
    evaluation = next((name for name in EVALUATION_NAMES if name in tops), None)
    if training and evaluation:
        part = {training: "training", evaluation: "evaluation"}
        found = [
            Found(name, part[parts[0].lower()], parts[1])
            for name, parts in images.items()
            if len(parts) > 2 and parts[0].lower() in part
        ]
        notes.append(f"{evaluation}/ evaluates, {training}/ calibrates and trains.")
    else:
        found = [Found(name, "evaluation", parts[0]) for name, parts in images.items() if len(parts) > 1]
    if not found:
        found = [Found(name, "evaluation", "") for name in images]
    if left := sorted(set(images) - {one.name for one in found}):
        notes.append(f"Not used, since they lie in no class folder of these parts: {some(left, 3)}.")
    return found


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part in HIDDEN for part in PurePosixPath(name).parts)


def _checked(
    archive: zipfile.ZipFile,
    inside: Mapping[str, zipfile.ZipInfo],
    found: Iterable[Found],
    filename: str,
    notes: list[str],
    report: Report,
) -> dict[str, str]:
    """Name -> the digest of its pixels, of every image that can be decoded. Raises DatasetRefused for a bomb."""
    digests: dict[str, str] = {}
    unread: list[str] = []
    found = list(found)
    for index, one in enumerate(found):
        info = inside[one.name]
        if info.file_size > MOST_BYTES:
            raise DatasetRefused(f"{one.name} in {filename} takes {info.file_size:,} bytes; at most {MOST_BYTES:,} do")
        with damage_named(one.name, DatasetRefused):
            content = archive.read(info)
        try:
            digests[one.name] = pixel_digest(content)
        except ImageBomb as bomb:
            raise DatasetRefused(f"{one.name} in {filename} {bomb}; make it smaller") from bomb
        except ImageUnread as error:
            unread.append(f"{one.name} {error}")
        if index % 100 == 0:
            report.progress(0.05 + 0.5 * index / len(found), f"Decoding image {index + 1:,} of {len(found):,}")
    note_unread(unread, len(found), filename, notes)
    return digests


def pixel_digest(content: bytes) -> str:
    """SHA-256 of the size and the decoded pixels, so that an image saved twice is found. Raises ImageUnread."""
    image = decoded(content)
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def note_unread(unread: list[str], n: int, filename: str, notes: list[str]) -> None:
    """Raises DatasetRefused where not one of the `n` images could be read."""
    if len(unread) == n:
        raise DatasetRefused(f"{filename} holds no image that can be read: {unread[0]}")
    if unread:
        were = "images were" if len(unread) > 1 else "image was"
        notes.append(f"{len(unread):,} {were} left out: {some(unread, 3)}.")


def _samples(
    archive: zipfile.ZipFile, found: list[Found], number: Mapping[str, int] | None, digests: Mapping[str, str]
) -> Images:
    """`number` tells each class; None where there are none."""
    if number is None:
        names = mixed([(0, one.name) for one in found])
        return Images(archive, names, None, [digests[name] for name in names])
    names = mixed([(number[one.label], one.name) for one in found])
    label = {one.name: number[one.label] for one in found}
    return Images(archive, names, [label[name] for name in names], [digests[name] for name in names])


def mixed(found: Iterable[tuple[int, str]]) -> list[str]:
    """The names of (class, name) such that the first 70 % hold the first 70 % of every class, by natural order.

    An image's place is its share within its class, (index + 1/2) / size; equal places go by class.
    """
    classes: dict[int, list[str]] = {}
    for label, name in found:
        classes.setdefault(label, []).append(name)
    places = [
        ((index + 0.5) / len(names), label, name)
        for label, names in classes.items()
        for index, name in enumerate(sorted(names, key=_natural))
    ]
    return [name for _, _, name in sorted(places)]


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """2.png before 10.png."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d{1,18})", name)], name
