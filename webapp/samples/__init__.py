"""What a fresh instance has to try: a CNN that reads handwritten digits, and the digits with and without labels.

The files beside this one are made by `python -m webapp.samples.train_digits`. They take a user's way in: the same
upload and the same inspection.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.actions.uploads import Inspections, receive_checkpoint, receive_dataset
from webapp.store.files import FileStore
from webapp.store.models import Checkpoint, Dataset

FOLDER = Path(__file__).parent
CHECKPOINT = FOLDER / "digits_cnn.safetensors"
DATASET = FOLDER / "digits.npz"  # x_train, y_train, x_test, y_test
UNLABELLED = FOLDER / "digits_unlabelled.npz"  # x
FILES = (CHECKPOINT, DATASET, UNLABELLED)


@cache
def digest_of(path: Path) -> str:
    """SHA-256 of a sample, by which it is known under any name."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sample_checkpoint(session: Session) -> Checkpoint | None:
    """The sample as it was uploaded last, whatever its state; None where it is not there."""
    rows = select(Checkpoint).where(Checkpoint.digest == digest_of(CHECKPOINT)).order_by(Checkpoint.created_at.desc())
    return session.scalars(rows.limit(1)).first()


def install(session: Session, files: FileStore, jobs: Inspections) -> list[Checkpoint | Dataset]:
    """Uploads the samples that are not there yet and queues their inspection. Returns the rows it made.

    Raises StoreFull where there is no space for them.
    """
    made: list[Checkpoint | Dataset] = []
    for path in FILES:
        table = Checkpoint if path == CHECKPOINT else Dataset
        if session.scalar(select(table.id).where(table.digest == digest_of(path)).limit(1)) is not None:
            continue
        limit_bytes = path.stat().st_size
        with path.open("rb") as stream:
            row: Checkpoint | Dataset
            if path == CHECKPOINT:
                row = receive_checkpoint(
                    stream, path.name, session=session, files=files, jobs=jobs, limit_bytes=limit_bytes
                )
            else:
                split = "all" if path == UNLABELLED else "auto"
                row = receive_dataset(
                    stream, path.name, split, session=session, files=files, jobs=jobs, limit_bytes=limit_bytes
                )
            made.append(row)
    return made


def install_when_fresh(session: Session, files: FileStore, jobs: Inspections) -> list[Checkpoint | Dataset]:
    """`install` where nothing was ever uploaded: samples that someone deleted stay away."""
    for table in (Checkpoint, Dataset):
        if session.scalar(select(table.id).limit(1)) is not None:
            return []
    return install(session, files, jobs)
