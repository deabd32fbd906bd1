"""What a fresh instance has to try: a CNN that reads handwritten digits, and the digits with and without labels.

The files beside this one are made by `python -m webapp.samples.train_digits`. They take a user's way in: the same
upload and the same inspection.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..store.models import Checkpoint, Dataset
from ..uploads import Inspections, receive_upload

FOLDER = Path(__file__).parent
CHECKPOINT = FOLDER / "digits_cnn.safetensors"
DATASET = FOLDER / "digits.npz"  # x_train, y_train, x_test, y_test
UNLABELLED = FOLDER / "digits_unlabelled.npz"  # x

Kind = Literal["checkpoint", "dataset"]
FILES: tuple[tuple[Kind, Path], ...] = (("checkpoint", CHECKPOINT), ("dataset", DATASET), ("dataset", UNLABELLED))


def install(session: Session, files: Any, jobs: Inspections) -> list[Checkpoint | Dataset]:
    """Uploads the samples that are not there yet and queues their inspection. Returns the rows it made.

    Raises DiskFull where there is no space for them.
    """
    made: list[Checkpoint | Dataset] = []
    for kind, path in FILES:
        if not _holds(session, kind, path):
            size_bytes = path.stat().st_size
            with path.open("rb") as stream:
                made.append(
                    receive_upload(
                        kind,
                        stream,
                        path.name,
                        session=session,
                        files=files,
                        jobs=jobs,
                        limit_bytes=size_bytes,
                        expected_bytes=size_bytes,
                    )
                )
    return made


def install_when_fresh(session: Session, files: Any, jobs: Inspections) -> list[Checkpoint | Dataset]:
    """`install` where nothing was ever uploaded: samples that someone deleted stay away."""
    for table in (Checkpoint, Dataset):
        if session.scalar(select(table.id).limit(1)) is not None:
            return []
    return install(session, files, jobs)


def _holds(session: Session, kind: Kind, path: Path) -> bool:
    table = Checkpoint if kind == "checkpoint" else Dataset
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return session.scalar(select(table.id).where(table.digest == digest).limit(1)) is not None
