"""What can go wrong with a job, in sentences."""

from __future__ import annotations

from webapp.engine.errors import PareError


class JobMissing(PareError, code="job_missing", status=404):
    """There is no run, or profile, of this id."""


class JobNotRetryable(PareError, code="job_not_retryable", status=409):
    """Only what failed or was cancelled can be retried."""


class ChildFailed(PareError):
    """The child process told an error of the engine; `code`, `message` and `field` are the engine's own."""

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message, field)
        self.code = code  # type: ignore[misc]


class ChildDied(PareError, code="child_died", status=500):
    """The child process ended without a result."""


class Crashed(ChildDied, code="child_died", status=500):
    """A signal of the child's own ended it, as happens to native code that gets no memory and does not look."""


class InspectionTooLong(PareError, code="inspection_too_long", status=422):
    """The inspection of an upload took longer than it may."""


class SourceChanged(PareError, code="source_changed", status=409):
    """A file that is used where it lies is not what it was when it was taken in."""


class HubOff(PareError, code="hub_off", status=409):
    """No hub is named in the settings."""


class PortTaken(PareError, code="port_taken", status=500):
    """Another program listens where Pare was to be served."""


class Stopped(Exception):
    """The work is not wanted any more: cancelled, retried or deleted. Its child is gone."""
