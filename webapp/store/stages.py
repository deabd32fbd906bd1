"""Looking for the output of a stage that some run has made already."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from .files import FileStore
from .models import Stage, StageState


def find_reusable(session: Session, key: str, files: FileStore) -> Stage | None:
    """The latest stage of this key that succeeded and whose files are all still there."""
    made = (StageState.SUCCEEDED, StageState.REUSED)
    for stage in session.scalars(
        select(Stage).where(Stage.key == key, Stage.state.in_(made)).order_by(Stage.id.desc())
    ):
        if all(files.exists(entry["digest"]) for entry in stage.files.values()):
            return stage
    return None
