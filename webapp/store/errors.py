"""What can go wrong in the store; the same shape as the engine's errors, without knowing them."""

from __future__ import annotations

from typing import ClassVar


class StoreError(Exception):
    """Base of the store's errors that are shown to a user: `code`, `message` (a sentence), `status`."""

    code: ClassVar[str] = "store_error"
    status: ClassVar[int] = 500
    field: str | None = None

    def __init_subclass__(cls, code: str | None = None, status: int | None = None) -> None:
        cls.code, cls.status = code or cls.code, status or cls.status

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message}


class StoreFull(StoreError, code="disk_full", status=507):
    """No space is left where the files are kept."""


class UploadTooLarge(StoreError, code="upload_too_large", status=413):
    """More bytes came than are allowed."""


class UploadBroken(StoreError, code="upload_broken", status=400):
    """The upload ended before all announced bytes had come."""


class FileMissing(StoreError, code="file_missing", status=500):
    """A file that a row names is not in the store."""


class StoreUnreachable(StoreError, code="store_unreachable", status=503):
    """The object store does not answer, or does not let Pare in."""


class DatabaseUnusable(StoreError, code="database_unusable", status=503):
    """The database cannot be reached, or was made by a newer Pare."""
