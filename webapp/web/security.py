"""Headers and checks that every answer and every write go through.

Scripts come from our own files only. Styles too, except on pages with charts: plotly writes style attributes, so
their templates call `allow_inline_styles()`.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Flask, Response, g, request, session
from werkzeug.exceptions import SecurityError
from werkzeug.sansio.utils import host_is_trusted

from webapp.actions.errors import CrossSite

from .extensions import services

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

CONTENT_SECURITY_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "manifest-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}


def init_security(app: Flask) -> None:
    app.before_request(refuse_foreign_names)
    app.before_request(refuse_cross_site_writes)
    app.after_request(add_headers)
    app.jinja_env.globals["allow_inline_styles"] = allow_inline_styles


def allow_inline_styles() -> str:
    """Called by the template of a page with charts; shows nothing."""
    g.inline_styles = True
    return ""


def refuse_foreign_names() -> None:
    """Raises SecurityError for a name that is not Pare's: a page elsewhere may have had it led here.

    An address cannot be led elsewhere, so each of them is good.
    """
    trusted = [each.strip().lower() for each in services().settings.trusted_hosts.split(",") if each.strip()]
    name = (urlsplit(f"//{request.host}").hostname or "").rstrip(".")
    if "*" in trusted or name in ("localhost", socket.gethostname().lower()) or is_address(name):
        return
    if not trusted or not host_is_trusted(name, trusted):
        raise SecurityError(f"{name[:100]} is not a name of this Pare.")


def is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def refuse_cross_site_writes() -> None:
    """A browser on another site may not write: forms carry a token, the API has this. Raises CrossSite."""
    if request.method in SAFE_METHODS:
        return
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    origin = request.headers.get("Origin")
    if site not in {"same-origin", "none"} or (origin is not None and urlsplit(origin).netloc != request.host):
        raise CrossSite("This request was made by a page of another site. Open Pare itself and do it there.")


def add_headers(response: Response) -> Response:
    policy = dict(CONTENT_SECURITY_POLICY)
    if g.get("inline_styles"):
        policy["style-src"] = "'self' 'unsafe-inline'"
    text = "; ".join(f"{name} {value}" for name, value in policy.items())
    response.headers.setdefault("Content-Security-Policy", text)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault(
        "Referrer-Policy", "no-referrer" if request.path.startswith("/shared") else "same-origin"
    )
    response.headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    return response


def show_once(kind: str, owner: str, secret: str) -> None:
    """The next page of the owner shows it to this browser, and no page after that."""
    session[f"once {kind}"] = {"owner": owner, "secret": secret}


def shown_once(kind: str, owner: str) -> str | None:
    """The secret of the owner that was not shown yet; a part of a page that asks for news does not take it away."""
    told = session.get(f"once {kind}")
    if told is None or told["owner"] != owner or "X-Refresh" in request.headers:
        return None
    del session[f"once {kind}"]
    return str(told["secret"])
