"""What a program asks for what a page shows: the request as `curl` sends it, and the same with the Python client."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from flask import request, url_for
from pydantic import BaseModel

from webapp.web.extensions import services

SHOWN_BY = {  # the endpoint of a page: the one of the API that gives what it shows
    "home.index": "get_runs",
    "runs.index": "get_runs",
    "runs.show": "get_run",
    "receipts.show": "get_run",
    "samples.show": "get_samples",
    "samples.compare": "get_compared_samples",
    "blame.show": "get_blame",
    "prompts.show": "get_prompts",
    "compare.index": "get_comparison",
    "checkpoints.index": "get_checkpoints",
    "checkpoints.show": "get_checkpoint",
    "datasets.index": "get_datasets",
    "datasets.show": "get_dataset",
    "fit.show": "get_profile",
    "studies.index": "get_studies",
    "studies.show": "get_study",
    "deployments.index": "get_deployments",
    "deployments.show": "get_deployment",
    "techniques.index": "get_techniques",
    "webhooks.index": "get_webhooks",
    "webhooks.show": "get_deliveries",
}
RENAMED = {"deployments.show": {"name": "deployment"}}  # parts of a page's address, as the API calls them
GETS = {  # what the client has a name for: of what kind it is
    "get_checkpoint": ("checkpoint", "checkpoints"),
    "get_dataset": ("dataset", "datasets"),
    "get_run": ("run", "runs"),
    "get_study": ("study", "studies"),
}
UPLOADS = {"checkpoints.new": ("put_checkpoint", "checkpoint"), "datasets.new": ("put_dataset", "dataset")}
LINE = 88
MOST_CHARACTERS = 20_000  # of a request that is shown


@dataclass(frozen=True)
class MadeBy:
    """What would start what a page shows: `asked` is sent to `path`, which begins behind /api/v1."""

    path: str
    asked: BaseModel

    @property
    def body(self) -> dict[str, Any]:
        return self.asked.model_dump(mode="json", exclude_defaults=True)


@dataclass(frozen=True)
class ShownCall:
    """`name` is for its element's id."""

    name: str
    title: str
    curl: str
    python: str


def calls_of_page(made_by: MadeBy | None, profile_id: str | None) -> list[ShownCall]:
    """For the page that is being answered; empty where the API has nothing like it.

    `profile_id`: the profile that it shows, where there is one.
    """
    page = request.endpoint or ""
    found = []
    if made_by:
        call = _post(made_by.path, made_by.body)
        found += [call] if len(call.curl) <= MOST_CHARACTERS else []
    if page in UPLOADS:
        found.append(_upload(*UPLOADS[page]))
    name = SHOWN_BY.get(page)
    parts = {RENAMED.get(page, {}).get(part, part): value for part, value in (request.view_args or {}).items()}
    if name == "get_profile":
        parts = {"id": profile_id or ""}
    if name and all(parts.values()):
        found.append(_get(name, parts))
    return found


def _get(name: str, parts: Mapping[str, str]) -> ShownCall:
    from webapp.web.views.api.endpoints import ENDPOINTS  # its views are imported by then

    query = ENDPOINTS[f"api.{name}"].query
    known = query.model_fields if query else {}
    page = {"from": "before"} if name == "get_runs" else {}  # what the API calls the place where a page begins
    asked_for = ((page.get(key, key), value) for key, value in request.args.items(multi=True))
    given = [(key, value) for key, value in asked_for if key in known and value]
    path = _path(name, **parts)
    asked = f"?{urlencode(given)}" if given else ""
    if name == "get_runs" and given:
        view = {key: [value for other, value in given if other == key] for key, _ in given}
        said = {key: values[0] if len(values) == 1 else values for key, values in view.items()}
        python = f"runs = list(pare.runs({', '.join(f'{key}={_literal(value)}' for key, value in said.items())}))"
    elif name in GETS:
        what, kind = GETS[name]
        python = f"{what} = pare.get({_literal(parts['id'])}, {_literal(kind)})"
        python += "\nprint(run.receipt)" if request.endpoint == "receipts.show" else ""
    else:
        python = f'answer = pare.call("GET", {_literal(path + asked)})'
    return ShownCall("read", "Read what this page shows", f"curl {_token()}{_address(path + asked)}", _program(python))


def _post(path: str, body: Mapping[str, Any]) -> ShownCall:
    told = shlex.quote(json.dumps(body, ensure_ascii=False))
    curl = f"curl {_token()}--json {told} \\\n  {_address(path)}"
    python = f'started = pare.call("POST", "{path}", body)'
    return ShownCall("start", "Start the same", curl, _program(f"body = {_literal(body)}\n{python}"))


def _literal(value: Any, indent: str = "") -> str:
    """As Python has it; what is too long for a line has a line for each part (static/calls.js does the same)."""
    if not isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
    inner = f"{indent}    "
    if isinstance(value, dict):
        parts = [f"{json.dumps(key, ensure_ascii=False)}: {_literal(part, inner)}" for key, part in value.items()]
    else:
        parts = [_literal(part, inner) for part in value]
    begin, end = "{}" if isinstance(value, dict) else "[]"
    line = f"{begin}{', '.join(parts)}{end}"
    if len(line) + len(indent) <= LINE and "\n" not in line:
        return line
    return "\n".join([begin, *(f"{inner}{part}," for part in parts), f"{indent}{end}"])


def _upload(name: str, what: str) -> ShownCall:
    path = _path(name)
    curl = f"curl {_token()}-T FILE {_address(f'{path}?name=FILE')}"
    return ShownCall("upload", f"Upload a {what}", curl, _program(f'{what} = pare.upload_{what}("FILE")'))


def _path(name: str, **parts: str) -> str:
    """Of an endpoint of the API, behind /api/v1."""
    return url_for(f"api.{name}", **parts).removeprefix(url_for("home.index").rstrip("/") + "/api/v1")


def _token() -> str:
    return '-H "Authorization: Bearer $PARE_TOKEN" ' if services().settings.access_token else ""


def _address(path: str) -> str:
    return shlex.quote(f"{request.url_root.rstrip('/')}/api/v1{path}")


def _program(lines: str) -> str:
    root = _literal(request.url_root.rstrip("/"))
    token = "  # with the token in PARE_TOKEN" if services().settings.access_token else ""
    return f"from webapp.client import Pare\n\npare = Pare({root}){token}\n{lines}\n"
