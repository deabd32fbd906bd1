"""What can go wrong with the hub, in sentences."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from webapp.engine.errors import PareError, quoted

log = logging.getLogger(__name__)


class HubRefused(PareError, code="hub_refused", status=422):
    """The hub has no such model, does not show it, or what it has is not taken."""


class HubUnreachable(PareError, code="hub_unreachable", status=502):
    """The hub does not answer, or not as it should."""


@contextmanager
def told(endpoint: str, repo_id: str) -> Iterator[None]:
    """Turns what the library raises into a sentence."""
    from httpx2 import HTTPError
    from huggingface_hub import errors

    name = quoted(repo_id)
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubRefused(
            f"{name} is gated: accept its terms on its page, with the account of the token in the setting hub_token."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubRefused(
            f"{endpoint} shows no model {name}: the name is another, or it is private and the setting hub_token holds "
            "no token that may see it."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubRefused(f"{name} has no such revision. Name a branch, a tag or a commit of it.") from error
    except (errors.EntryNotFoundError, errors.HFValidationError) as error:
        raise HubRefused(f"{name} cannot be read: {_first(error)}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise HubRefused(
                f"{endpoint} does not allow it ({status}): see the token in the setting hub_token."
            ) from error
        raise HubUnreachable(f"{endpoint} answered {name} with an error ({status}). Try again later.") from error
    except (HTTPError, errors.FileMetadataError, ConnectionError, TimeoutError) as error:
        raise HubUnreachable(f"{endpoint} does not answer: {_first(error)}. Try again later.") from error

    except (ValueError, LookupError, TypeError) as error:
        log.exception("What %s answered was not understood", endpoint)
        raise HubRefused(
            f"{endpoint} answered about {name} in a way that the hub's client does not understand. Is hub_url a hub?"
        ) from error


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
