"""How errors are answered: the API with JSON of one shape, everything else with a page."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from flask import Flask, current_app, render_template, request
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import HTTPException, SecurityError
from werkzeug.routing import RequestRedirect

from webapp.actions.errors import AccessRefused, Busy, TooManyTries
from webapp.engine.errors import PareError
from webapp.store.errors import DatabaseUnusable, StoreError, StoreFull
from webapp.store.space import FULL, is_full

from .extensions import services
from .security import SAFE_METHODS

PROGRAM_PATHS = ("/api/", "/serve/", "/healthz")  # under /serve/ each protocol has its own form: views/serve.py
HEADERS: dict[type[Exception], dict[str, str]] = {
    AccessRefused: {"WWW-Authenticate": 'Bearer realm="Pare"'},
    Busy: {"Retry-After": "5"},
    TooManyTries: {"Retry-After": "60"},
}

TITLES = {
    400: "That request cannot be read",
    401: "Sign in first",
    403: "Not allowed",
    404: "Page not found",
    405: "Not allowed",
    408: "That took too long",
    409: "Not possible right now",
    410: "No longer here",
    413: "Too large",
    422: "That does not work",
    429: "Too often",
    500: "Something went wrong",
    503: "Not available right now",
    507: "No space left",
}
SENTENCES = {
    404: "There is no page at this address. It may have been deleted, or the link may be incomplete.",
    405: "This address does not take that kind of request.",
    413: "The request is larger than this address takes.",
    500: "Pare made a mistake. What happened is in the server's log; try again, and report it if it stays.",
}


WAYS_BACK = {  # the page of the thing that a form was about: what its link says
    "runs.show": "Back to the run",
    "runs.index": "Back to the runs",
    "studies.show": "Back to the study",
    "checkpoints.show": "Back to the checkpoint",
    "datasets.show": "Back to the dataset",
    "deployments.show": "Back to the deployment",
    "deployments.index": "Back to the deployments",
    "fit.show": "Back to the budget",
    "blame.show": "Back to the layers",
    "prompts.show": "Back to the prompts",
    "compare.index": "Back to the comparison",
}


def init_errors(app: Flask) -> None:
    app.register_error_handler(PareError, answer_known)
    app.register_error_handler(StoreError, answer_known)
    app.register_error_handler(OperationalError, answer_system)
    app.register_error_handler(OSError, answer_system)
    app.register_error_handler(CSRFError, answer_expired)
    app.register_error_handler(SecurityError, answer_foreign_name)
    app.register_error_handler(HTTPException, answer_http)
    app.register_error_handler(Exception, answer_unknown)


def wants_json() -> bool:
    """By the address; elsewhere by what the client prefers."""
    if request.path.startswith(PROGRAM_PATHS):
        return True
    accepted = request.accept_mimetypes
    return accepted.best_match(["text/html", "application/json"]) == "application/json"


def answer(status: int, error: dict[str, Any]) -> ResponseReturnValue:
    if wants_json():
        return {"error": error}, status
    title = TITLES.get(status, "Something went wrong")
    back = way_back() if status != 404 else None
    return render_template("error.html", status=status, title=title, error=error, back=back), status


def way_back() -> tuple[str, str] | None:
    """From a form that was refused to the page of what it is about, the nearest above its address, with the view that
    it was sent from: (address, label). From a view that cannot be shown to the page without it."""
    if request.url_rule is None or (request.method in SAFE_METHODS and not request.query_string):
        return None
    addresses = current_app.create_url_adapter(request)
    path = request.path
    while addresses is not None and path.count("/"):
        try:
            rule, _ = addresses.match(path, method="GET", return_rule=True)
        except (HTTPException, RequestRedirect):
            rule = None
        if rule is not None and rule.endpoint in WAYS_BACK and request.url_rule.rule.startswith(rule.rule):
            came_from = urlsplit(request.referrer or "")
            view = f"?{came_from.query}" if (came_from.netloc, came_from.path) == (request.host, path) else ""
            return path + view.rstrip("?"), WAYS_BACK[rule.endpoint]
        path = path.rpartition("/")[0]
    return None


def answer_known(error: PareError | StoreError) -> ResponseReturnValue:
    if error.status >= 500 and not isinstance(error, Busy):
        current_app.logger.error("%s %s: %s", request.method, request.path, error)
    response = current_app.make_response(answer(error.status, error.as_dict()))
    response.headers.update(HEADERS.get(type(error), {}))
    return response


def answer_system(error: OperationalError | OSError) -> ResponseReturnValue:
    """Of the database or of a disk."""
    if is_full(error, services().settings.instance):
        return answer_known(StoreFull(FULL))
    if isinstance(error, OperationalError):
        current_app.logger.exception("%s %s: the database did not do it", request.method, request.path)
        return answer_known(DatabaseUnusable("The database does not answer, or is too busy. Try again in a moment."))
    return answer_unknown(error)


def answer_expired(error: CSRFError) -> ResponseReturnValue:
    sentence = "The form has expired, or was sent from another site. Go back, reload the page and send it again."
    return answer(400, {"code": "form_expired", "message": sentence})


def answer_foreign_name(error: SecurityError) -> ResponseReturnValue:
    """Without a page: under a name that is not trusted there are no addresses to link to."""
    message = f"{error.description} If Pare should be reached by this name, name it in the setting trusted_hosts."
    if wants_json():
        return {"error": {"code": "host_not_trusted", "message": message}}, 400
    return message, 400, {"Content-Type": "text/plain; charset=utf-8"}


def answer_http(error: HTTPException) -> ResponseReturnValue:
    status = error.code or 500
    if status < 400:
        return error.get_response()
    code = error.name.lower().replace(" ", "_")
    message = SENTENCES.get(status) or error.description or error.name
    body = answer(status, {"code": code, "message": message})
    response = current_app.make_response(body)
    for name in ("Allow", "Retry-After", "Content-Range"):
        if value := error.get_response().headers.get(name):
            response.headers[name] = value
    return response


def answer_unknown(error: Exception) -> ResponseReturnValue:
    if current_app.testing or current_app.debug:
        raise error
    current_app.logger.exception("%s %s failed", request.method, request.path)
    return answer(500, {"code": "internal_error", "message": SENTENCES[500]})
