"""What can go wrong, said once: a code for programs, a sentence for people, the field it is about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar


class PareError(Exception):
    """Base of every error that is shown to a user: `code`, `message` (a sentence), optional `field`."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 400  # what the API answers with

    def __init_subclass__(cls, code: str | None = None, status: int | None = None) -> None:
        cls.code, cls.status = code or cls.code, status or cls.status

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def as_dict(self) -> dict[str, str]:
        shown = {"code": self.code, "message": self.message}
        return {**shown, "field": self.field} if self.field else shown


class CheckpointRefused(PareError, code="checkpoint_refused", status=422):
    """The upload is not a checkpoint that can be read safely."""


class DatasetRefused(PareError, code="dataset_refused", status=422):
    """The upload is not a dataset that can be read safely."""


class RecipeInvalid(PareError, code="recipe_invalid", status=422):
    """The recipe cannot be applied to this checkpoint."""


class BudgetInvalid(PareError, code="budget_invalid", status=422):
    """The goal cannot be reached on this profile, or names what it does not have."""


class DatasetUnfit(PareError, code="dataset_unfit", status=422):
    """The dataset's samples do not fit the checkpoint's inputs."""


class ProfileUnfit(PareError, code="profile_unfit", status=422):
    """No profile can be made of this checkpoint on this dataset."""


class TaskUnfit(PareError, code="task_unfit", status=422):
    """The checkpoint cannot be used for the task that was named."""


class RecipeVaries(PareError, code="recipe_varies", status=422):
    """A recipe has several values, as a study's may, where a run has one."""


class ExportUnfit(PareError, code="export_unfit", status=422):
    """The model cannot be written in a format that was asked for."""


class ArtifactUnproven(PareError, code="artifact_unproven", status=500):
    """An exported file did not load again, or answered differently."""


# what Python, NumPy and torch say of it, in small letters; oneDNN says so where it has no room for its code
OUT_OF_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "bad_alloc",
    "out of memory",
    "could not create a primitive",
)


class OutOfMemory(PareError, code="out_of_memory", status=507):
    """The child process ran out of memory."""


class DiskFull(PareError, code="disk_full", status=507):
    """No space left where Pare keeps its files."""


class PreprocessingInvalid(PareError, code="preprocessing_invalid", status=422):
    """Images cannot be prepared as asked for this checkpoint."""


def quoted(given: object) -> str:
    """Untrusted text, for a sentence: in quotation marks, short, and without what cannot be printed."""
    text = str(given)
    return '"' + "".join(c if c.isprintable() else "\ufffd" for c in text[:80]) + ("…" if len(text) > 80 else "") + '"'


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of them, and how many more there are: "a, b and 3 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def is_text(given: Any) -> bool:
    """Whether it is a string that can be written down: JSON and pickles may hold halves of characters."""
    return isinstance(given, str) and (given.isascii() or not any("\ud800" <= c <= "\udfff" for c in given))


def json_fault(error: ValueError | RecursionError) -> str:
    """What is wrong with JSON that was not read, for the end of a sentence."""
    if isinstance(error, RecursionError):
        return "nested too deeply to be read"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte {error.start})"
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error}"
    return "not valid JSON: a number in it has too many digits"
