"""The OpenAPI document, made from what the endpoints declare, and the page that lists them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from flask import Blueprint, Flask, Response, current_app, jsonify, render_template
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from webapp.actions.packages import TARGETS
from webapp.web.extensions import services
from webapp.web.views.api.endpoints import KEY_LENGTH

from .endpoints import ENDPOINTS, Endpoint, blueprint
from .schemas import ErrorAnswer, WebhookMessage

pages = Blueprint("reference", __name__)

QUOTE = "'"
REFERENCE = "#/components/schemas/{model}"
PREFIX = "/api/v1"
PATH_PARTS = {
    "id": {"type": "string", "pattern": "^[2-9a-z]{12}$", "description": "As the lists give it."},
    "name": {"type": "string", "minLength": 1, "description": "The artifact's name, such as model.safetensors."},
    "target": {"type": "string", "enum": list(TARGETS), "description": "Where the package is to run."},
    "deployment": {"type": "string", "minLength": 1, "maxLength": 63, "description": "The deployment's name."},
    "delivery": {"type": "string", "pattern": "^[2-9a-z]{12}$", "description": "As the list of deliveries gives it."},
    "token": {"type": "string", "minLength": 1, "description": "The last part of a share link."},
}

BYTES = {"type": "integer", "minimum": 0, "maximum": 999_999_999_999_999_999}
IDEMPOTENCY_KEY = {
    "type": "string",
    "pattern": "^[!-~]+$",
    "minLength": 1,
    "maxLength": KEY_LENGTH,
    "description": "A request that comes again with its key within a day is answered as it was, and not done again.",
}
HEADER_PARTS = {
    "Upload-Length": BYTES | {"description": "The size of the whole file, in bytes."},
    "Upload-Offset": BYTES | {"description": "The first byte of this part, as the upload tells it."},
}


@blueprint.get("/openapi.json")
def openapi() -> Response:
    return jsonify(document(current_app))


@pages.get("/api")
def reference() -> str:
    """The endpoints, as a page."""
    declared = sorted(routes(current_app), key=lambda each: (each[1].split("/")[3], len(each[1])))
    nouns: dict[str, list[tuple[str, str, Endpoint]]] = {}
    for method, path, each in declared:
        nouns.setdefault(path.split("/")[3].removesuffix(".csv"), []).append((method, path, each))
    return render_template("api/index.html", nouns=nouns, curl=curl)


def curl(method: str, path: str, each: Endpoint, root: str) -> str:
    """A command that calls it; ID, NAME and TOKEN stand for what the lists give."""
    address = root.rstrip("/") + re.sub(r"{(\w+)}", lambda found: found[1].upper(), path)
    options, _, query = each.example.partition("?")
    if services().settings.access_token:
        options = f'-H "Authorization: Bearer $PARE_TOKEN" {options}'
    how = "" if method in ("GET", "PUT") or "--json" in options else f"-X {method} "
    asked = f"?{query.rstrip(QUOTE)}" if query else ""
    return f"curl {how}{options.rstrip(QUOTE).strip()} '{address}{asked}'".replace("  ", " ")


def routes(app: Flask) -> Iterator[tuple[str, str, Endpoint]]:
    """(method, path as OpenAPI writes it, declaration) of every route under /api/v1 but the document's own."""
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith(PREFIX) and rule.endpoint != "api.openapi":
            yield method_of(rule), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), ENDPOINTS[rule.endpoint]


def method_of(rule: Rule) -> str:
    return next(iter((rule.methods or set()) - {"HEAD", "OPTIONS"}))


def document(app: Flask) -> dict[str, Any]:
    """OpenAPI 3.1."""
    declared = sorted(routes(app), key=lambda each: (each[1], each[0]))
    answers: list[type[BaseModel]] = [ErrorAnswer, WebhookMessage]
    bodies: list[type[BaseModel]] = []
    for _, _, each in declared:
        if isinstance(each.answer, type):
            answers.append(each.answer)
        if each.body:
            bodies.append(each.body)
    wanted = [(model, "serialization") for model in dict.fromkeys(answers)]
    wanted += [(model, "validation") for model in dict.fromkeys(bodies)]
    references, schemas = models_json_schema(wanted, ref_template=REFERENCE)  # type: ignore[arg-type]
    paths: dict[str, Any] = {}
    for method, path, each in declared:
        paths.setdefault(path, {})[method.lower()] = operation(each, path, references)
    title = {
        "title": "Pare",
        "version": version("pare"),
        "description": "Makes neural networks smaller, and proves it.",
    }
    token = {"type": "http", "scheme": "bearer", "description": "The access token, where Pare asks for one."}
    components = {"schemas": schemas["$defs"], "securitySchemes": {"access_token": token}}
    return {
        "openapi": "3.1.0",
        "info": title,
        "security": [{}, {"access_token": []}],
        "paths": paths,
        "webhooks": {"ended": {"post": message(references)}},
        "components": components,
    }


def message(references: dict[Any, Any]) -> dict[str, Any]:
    """What a webhook is sent."""
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    schema = references[(WebhookMessage, "serialization")]
    return {
        "summary": "A run or a study has ended; signed as https://www.standardwebhooks.com has it",
        "parameters": [
            {"name": name, "in": "header", "required": True, "schema": {"type": "string"}} for name in names
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"2XX": {"description": "It was taken; with anything else it is sent again."}},
    }


def operation(each: Endpoint, path: str, references: dict[Any, Any]) -> dict[str, Any]:
    answers = {str(each.status): answer_of(each, references)}
    if each.answer == "application/octet-stream":
        binary = {"content": {"*/*": {"schema": {}}}}
        answers["206"] = {"description": "The part that Range asked for.", **binary}
        answers["304"] = {"description": "If-None-Match names what is there."}
    for status in each.errors:
        shown = {"application/json": {"schema": references[(ErrorAnswer, "serialization")]}}
        answers[str(status)] = {"description": HTTPStatus(status).phrase, "content": shown}
    found: dict[str, Any] = {"summary": each.summary, "parameters": list(parameters(each, path)), "responses": answers}
    if each.body:
        schema = references[(each.body, "validation")]
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if each.raw_body:
        found["requestBody"] = {"required": True, "content": {"application/octet-stream": {"schema": {}}}}
    return found


def answer_of(each: Endpoint, references: dict[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": HTTPStatus(each.status).phrase}
    if isinstance(each.answer, str):
        described["content"] = {"*/*" if each.answer == "application/octet-stream" else each.answer: {"schema": {}}}
    elif each.answer:
        described["content"] = {"application/json": {"schema": references[(each.answer, "serialization")]}}
    return described


def parameters(each: Endpoint, path: str) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", path):
        yield {"name": name, "in": "path", "required": True, "schema": PATH_PARTS[name]}
    for name in each.headers:
        yield {"name": name, "in": "header", "required": True, "schema": HEADER_PARTS[name]}
    if each.keyed:
        yield {"name": "Idempotency-Key", "in": "header", "required": False, "schema": IDEMPOTENCY_KEY}
    if each.query:
        schema = each.query.model_json_schema()
        for name, field in schema.get("properties", {}).items():
            yield {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": field}
