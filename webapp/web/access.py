"""Who may use a Pare that others can reach: whoever has its access token.

A browser shows it once and then carries a signed cookie; a program sends `Authorization: Bearer TOKEN`. What has tokens
of its own (share links, deployed models) is reached without it, and so is what tells nothing.
"""

from __future__ import annotations

import hmac
import threading
import time
from ipaddress import IPv6Address, ip_address

from flask import Flask, current_app, redirect, request, session, url_for
from flask.typing import ResponseReturnValue

from webapp.actions.errors import AccessRefused, TooManyTries

from .extensions import services

PUBLIC = ("/shared/", "/serve/", "/static/", "/static-vendor/", "/bootstrap/static/")
PUBLIC_PAGES = ("/healthz", "/sign-in")
TRIES, TRIES_SECONDS = 10, 60  # wrong tokens from one address, before none is looked at for a while
MOST_ADDRESSES = 10_000
SEAL = "access"  # in the session


class Tries:
    """Wrong tokens of the last minute, by the address that sent them."""

    def __init__(self) -> None:
        self._at: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Raises TooManyTries."""
        with self._lock:
            if len(self._recent(address)) >= TRIES:
                raise TooManyTries("Too many wrong access tokens came from this address; try again in a minute.")

    def note(self, address: str) -> None:
        with self._lock:
            if len(self._at) >= MOST_ADDRESSES:
                self._at = {found: recent for found in self._at if (recent := self._recent(found))}
            self._at[address] = [*self._recent(address), time.monotonic()][-TRIES:]

    def _recent(self, address: str) -> list[float]:
        return [at for at in self._at.get(address, ()) if at > time.monotonic() - TRIES_SECONDS]


def init_access(app: Flask) -> None:
    app.before_request(require_access)
    app.extensions["pare-tries"] = Tries()
    app.jinja_env.globals["is_signed_in"] = is_signed_in


def require_access() -> ResponseReturnValue | None:
    """Raises AccessRefused for a program; a browser is led to the page that asks for the token."""
    if not services().settings.access_token or request.path.startswith(PUBLIC) or request.path in PUBLIC_PAGES:
        return None
    if is_signed_in():
        return None
    given = request.authorization
    if given is not None and given.type == "bearer":
        check_token(given.token or "")
        return None
    if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
        return redirect(url_for("access.sign_in", next=request.full_path.rstrip("?")))
    raise AccessRefused(
        "Send Pare's access token: Authorization: Bearer TOKEN. A browser signs in with it at /sign-in."
    )


def is_signed_in() -> bool:
    return hmac.compare_digest(str(session.get(SEAL, "")), _seal()) if services().settings.access_token else False


def sign_in(token: str) -> None:
    """Raises AccessRefused, TooManyTries."""
    check_token(token)
    session.permanent = True
    session[SEAL] = _seal()


def sign_out() -> None:
    session.clear()


def check_token(token: str) -> None:
    """Raises AccessRefused; TooManyTries without looking at the token."""
    tries: Tries = current_app.extensions["pare-tries"]
    address = _network(request.remote_addr or "")
    tries.check(address)
    if not hmac.compare_digest(token.encode("utf8", "replace"), services().settings.access_token.encode()):
        tries.note(address)
        raise AccessRefused("This is not Pare's access token.")


def _seal() -> str:
    """Of this token: who signed in with another one has to sign in again. The cookie is readable, so it is keyed."""
    settings = services().settings
    return hmac.new(settings.secret_key.encode(), b"access " + settings.access_token.encode(), "sha256").hexdigest()


def _network(address: str) -> str:
    """One that a single client cannot leave: of IPv6 it has a whole /64."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return found.exploded[:19] if isinstance(found, IPv6Address) and not found.ipv4_mapped else address
