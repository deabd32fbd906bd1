"""What can go wrong in the store; the same shape as the engine's errors, without knowing them."""

from __future__ import annotations

from typing import ClassVar


class StoreError(Exception):
    """Base of the store's errors that are shown to a user: `code`, `message` (a sentence), `status`."""

    code: ClassVar[str] = "store_error"
    status: ClassVar[int] = 500
    field: str | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message}


class StoreFull(StoreError):
    """No space is left where the files are kept."""

    code = "disk_full"
    status = 507


class UploadTooLarge(StoreError):
    """More bytes came than are allowed."""

    code = "upload_too_large"
    status = 413


class UploadBroken(StoreError):
    """The upload ended before all announced bytes had come."""

    code = "upload_broken"
    status = 400


class FileMissing(StoreError):
    """A file that a row names is not in the store."""

    code = "file_missing"
    status = 500


class StoreUnreachable(StoreError):
    """The object store does not answer, or does not let Pare in."""

    code = "store_unreachable"
    status = 503


class DatabaseUnusable(StoreError):
    """The database cannot be reached, or was made by a newer Pare."""

    code = "database_unusable"
    status = 503
