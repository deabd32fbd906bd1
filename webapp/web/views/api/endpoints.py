"""Declaring an endpoint: what it takes is checked before the function runs, what it gives is checked after."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from types import NoneType
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

from flask import Blueprint, Response, request
from pydantic import BaseModel, ValidationError
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from werkzeug.exceptions import BadRequest, HTTPException, UnsupportedMediaType

from webapp.actions.errors import BodyInvalid, Conflict, KeyReused, RequestInvalid
from webapp.engine.errors import PareError
from webapp.store.clock import now
from webapp.store.errors import StoreError, UploadBroken
from webapp.store.models import KeptAnswer
from webapp.web.extensions import db, services

blueprint = Blueprint("api", __name__, url_prefix="/api/v1")
if TYPE_CHECKING:
    from cryptography.fernet import Fernet

KEPT = timedelta(days=1)
KEY_LENGTH = 255


def once(
    session: Session, key: str, request_bytes: bytes, secret: str, do: Callable[[], tuple[int, str]]
) -> tuple[int, str]:
    """What `do` answers (status, JSON), or answered when the key came first. What it refuses is not kept.

    Raises RequestInvalid, KeyReused where the key came with another request, and Conflict where the first one is not
    done yet, or its process died: then nobody knows whether it was.
    """
    from cryptography.fernet import Fernet  # 6 MB, for requests that are seldom

    if not (0 < len(key) <= KEY_LENGTH and key.isascii() and key.isprintable()):
        raise RequestInvalid(
            f"Idempotency-Key is 1 to {KEY_LENGTH} ASCII characters, such as a UUID.", "Idempotency-Key"
        )
    key_hash, request_hash = hashlib.sha256(key.encode()).hexdigest(), hashlib.sha256(request_bytes).hexdigest()
    # answers hold tokens, which nobody should find in the database
    sealing = Fernet(base64.urlsafe_b64encode(hmac.digest(secret.encode(), f"answer {key}".encode(), "sha256")))
    session.execute(delete(KeptAnswer).where(KeptAnswer.created_at < now() - KEPT))
    session.add(KeptAnswer(key_hash=key_hash, request_hash=request_hash))
    try:
        session.commit()
    except IntegrityError:
        session.rollback()
        return _kept(session.get(KeptAnswer, key_hash), request_hash, sealing)
    try:
        status, answer = do()
    except (PareError, StoreError, HTTPException):
        session.rollback()
        session.execute(delete(KeptAnswer).where(KeptAnswer.key_hash == key_hash))
        session.commit()
        raise
    row = session.get_one(KeptAnswer, key_hash)
    row.status, row.sealed = status, sealing.encrypt(answer.encode())
    session.commit()
    return status, answer


def _kept(row: KeptAnswer | None, request_hash: str, sealing: Fernet) -> tuple[int, str]:
    if row is not None and row.request_hash != request_hash:
        raise KeyReused(
            "This Idempotency-Key came with another request within the last day. Use a new key for each request.",
            "Idempotency-Key",
        )
    if row is None or row.status is None or row.sealed is None:
        raise Conflict(
            "The first request with this Idempotency-Key is not answered yet. Send it again in a moment; if that goes "
            "on, it was cut off: look whether it was done, and use a new key.",
            "Idempotency-Key",
        )
    return row.status, sealing.decrypt(row.sealed).decode()


@dataclass(frozen=True)
class Endpoint:
    """What the document says of a route. `answer` is a model, or the media type of an answer that is not JSON."""

    summary: str
    status: int
    answer: type[BaseModel] | str | None
    body: type[BaseModel] | None
    raw_body: bool
    query: type[BaseModel] | None
    headers: tuple[str, ...]
    keyed: bool  # takes an Idempotency-Key
    errors: tuple[int, ...]
    example: str  # what follows `curl` and the address


ENDPOINTS: dict[str, Endpoint] = {}  # by Flask's endpoint name, "api.create_run"


def endpoint(
    method: str,
    rule: str,
    summary: str,
    *,
    status: int = 200,
    media_type: str | None = None,
    raw_body: bool = False,
    headers: tuple[str, ...] = (),
    errors: tuple[int, ...] = (),
    example: str = "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers the function. What it takes (the path's parts, `query`, `body`) and gives is told by its annotations.

    `media_type` is that of a Response that is not JSON. `errors` has only what does not follow from the rest.
    """
    keyed = method == "POST" and status != 200  # what only tells something may be asked again

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        declared = get_type_hints(function)
        query, body, answer = declared.get("query"), declared.get("body"), media_type or declared["return"]

        @wraps(function)
        def view(**given: Any) -> Response:
            given |= {"query": read_query(query)} if query else {}
            given |= {"body": read_body(body)} if body else {}
            if keyed and "Idempotency-Key" in request.headers:
                sent = b"\0".join([request.full_path.encode(), request.get_data() if body else b""])
                secret = services().settings.secret_key
                key = request.headers["Idempotency-Key"]
                told = once(db.session, key, sent, secret, lambda: (status, function(**given).model_dump_json()))
                return Response(told[1], told[0], mimetype="application/json")
            answered = function(**given)
            if isinstance(answered, BaseModel):
                return Response(answered.model_dump_json(), status, mimetype="application/json")
            return Response(status=status) if answered is None else answered

        errors_here = set(errors) | ({400} if query or body or raw_body or headers else set())
        errors_here |= {404} if "<" in rule else set()
        errors_here |= ({415, 422} if body else set()) | ({400, 409, 422} if keyed else set())
        ENDPOINTS[f"api.{function.__name__}"] = Endpoint(
            summary,
            status,
            None if answer is NoneType else answer,
            body,
            raw_body,
            query,
            headers,
            keyed,
            tuple(sorted(errors_here)),
            example,
        )
        blueprint.add_url_rule(rule, function.__name__, view, methods=[method])
        return view

    return register


def read_query(model: type[BaseModel]) -> Any:
    """Raises RequestInvalid for a parameter that is unknown, missing or not of its kind."""
    lists = {name for name, field in model.model_fields.items() if get_origin(field.annotation) is list}
    given = {name: values if name in lists else values[0] for name, values in request.args.lists()}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        sentence, field = first_problem(error)
        hint = f" Add ?{field}=… to it." if sentence.endswith("is missing.") else ""
        raise RequestInvalid(f"In the address, {sentence}{hint}", field) from None


def read_body(model: type[BaseModel]) -> Any:
    """Raises RequestInvalid where it is not JSON, BodyInvalid where it is not this kind of JSON."""
    try:
        request.get_json()
        given = json.loads(request.get_data(), object_pairs_hook=each_once)
    except UnsupportedMediaType:
        raise UnsupportedMediaType("Send JSON, and say so: Content-Type: application/json.") from None
    except BadRequest:
        raise RequestInvalid("The body is not JSON that can be read. Check its quotes, commas and brackets.") from None
    except RecursionError:
        raise RequestInvalid("The body is nested too deeply to be read.") from None
    try:
        json.dumps(given, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BodyInvalid("The body has half of a character (a lone surrogate), which no text can hold.") from None
    if not isinstance(given, dict):
        raise BodyInvalid("The body has to be a JSON object, { … }.")
    try:
        return model.model_validate(given)
    except ValidationError as error:
        sentence, field = first_problem(error)
        raise BodyInvalid(f"In the body, {sentence}", field) from None


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises BodyInvalid where a key stands twice: of two overrides one would vanish in silence."""
    keys: set[str] = set()
    for key, _ in pairs:
        if key in keys:
            raise BodyInvalid(f"The body says {key[:80]!r} twice in one object; remove one of them.")
        keys.add(key)
    return dict(pairs)


def first_problem(error: ValidationError) -> tuple[str, str | None]:
    """A sentence and the field that it is about."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("str", "dict[str,any]")) or None
    if first["type"] == "extra_forbidden":
        return f"{field} is not known; remove it.", field
    if first["type"] == "missing":
        return f"{field} is missing.", field
    said = first["msg"].removeprefix("Value error, ").removesuffix(".")
    what = said[:1].lower() + said[1:]
    return f"{field} is not right: {what}." if field else f"{what}.", field


class Body:
    """The request's body; a client that goes away in the middle of it is an UploadBroken."""

    def read(self, size: int) -> bytes:
        try:
            return request.stream.read(size)
        except OSError as error:
            raise UploadBroken("The upload broke off before its end.") from error


def require_bare_body() -> None:
    """Raises UnsupportedMediaType or RequestInvalid: a form's envelope, or a part, would be taken for the file."""
    if (request.mimetype or "").startswith("multipart/"):
        raise UnsupportedMediaType("Send the file itself as the body (curl -T FILE), not as a form (curl -F).")
    if "Content-Range" in request.headers:
        raise RequestInvalid(
            "Content-Range is not read here. PUT the whole file, or begin an upload in parts with POST and PATCH it."
        )


def body_length() -> int | None:
    """Announced bytes, None for a chunked body; without either header HTTP has no body at all: 0."""
    if request.content_length is None and not request.environ.get("wsgi.input_terminated"):
        return 0
    return request.content_length
