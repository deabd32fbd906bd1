"""What can be wrong with a request, beside what the engine refuses: each with its HTTP status."""

from __future__ import annotations

from webapp.engine.errors import PareError


class RequestInvalid(PareError, code="request_invalid", status=400):
    """A parameter is missing or cannot be read."""


class UploadEmpty(PareError, code="upload_empty", status=400):
    """The body has no bytes."""


class NotFound(PareError, code="not_found", status=404):
    """There is nothing at this address."""


class Conflict(PareError, code="conflict", status=409):
    """The state of the thing does not allow it."""


class CrossSite(PareError, code="cross_site", status=403):
    """A page of another site wrote here in the user's name."""


class BodyInvalid(PareError, code="body_invalid", status=422):
    """The body is JSON, but not of the kind that was asked for."""


class KeyReused(PareError, code="key_reused", status=422):
    """An Idempotency-Key came before, with another request."""


class Busy(PareError, code="busy", status=503):
    """As much is done at once as Pare does at once; soon it will be less."""


class BodyStalled(PareError, code="body_stalled", status=408):
    """The client stopped sending in the middle of a request."""


class AccessRefused(PareError, code="access_refused", status=401):
    """The access token is missing or wrong."""


class TooManyTries(PareError, code="too_many_tries", status=429):
    """Wrong tokens came too often."""
