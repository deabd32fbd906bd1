"""What can be wrong with a request, beside what the engine refuses: each with its HTTP status."""

from __future__ import annotations

from webapp.engine.errors import PareError


class RequestInvalid(PareError):
    """A parameter is missing or cannot be read."""

    code = "request_invalid"
    status = 400


class UploadEmpty(PareError):
    """The body has no bytes."""

    code = "upload_empty"
    status = 400


class NotFound(PareError):
    """There is nothing at this address."""

    code = "not_found"
    status = 404


class Conflict(PareError):
    """The state of the thing does not allow it."""

    code = "conflict"
    status = 409


class CrossSite(PareError):
    """A page of another site wrote here in the user's name."""

    code = "cross_site"
    status = 403


class BodyInvalid(PareError):
    """The body is JSON, but not of the kind that was asked for."""

    code = "body_invalid"
    status = 422


class KeyReused(PareError):
    """An Idempotency-Key came before, with another request."""

    code = "key_reused"
    status = 422


class Busy(PareError):
    """As much is done at once as Pare does at once; soon it will be less."""

    code = "busy"
    status = 503


class BodyStalled(PareError):
    """The client stopped sending in the middle of a request."""

    code = "body_stalled"
    status = 408


class AccessRefused(PareError):
    """The access token is missing or wrong."""

    code = "access_refused"
    status = 401


class TooManyTries(PareError):
    """Wrong tokens came too often."""

    code = "too_many_tries"
    status = 429
