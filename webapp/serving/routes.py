"""Which address answers what. The model's name stands in the address, as each protocol has it."""

from __future__ import annotations

import re
from collections.abc import Callable

from . import open_inference, openai, tensorflow_rest
from .answers import Answer, Request, as_json
from .errors import Refused, Unknown
from .model import ServedModel

Handler = Callable[[ServedModel, Request], Answer]
INTERNAL = "/-/"  # for whoever runs the process; never passed on from outside

NAMED = r"/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[^/:]+))?"
ROUTES: list[tuple[str, str, bool, Handler]] = [  # method, address, whether it is a request of a client, handler
    ("POST", rf"/v1{NAMED}:predict", True, tensorflow_rest.predict),
    ("GET", rf"/v1{NAMED}/metadata", False, lambda model, _: tensorflow_rest.metadata(model)),
    ("GET", rf"/v1{NAMED}", False, lambda model, _: tensorflow_rest.status(model)),
    ("POST", rf"/v2{NAMED}/infer", True, open_inference.infer),
    ("GET", rf"/v2{NAMED}/ready", False, lambda model, _: as_json({"ready": True})),
    ("GET", rf"/v2{NAMED}", False, lambda model, _: open_inference.metadata(model)),
    ("GET", r"/v2/health/(?:live|ready)", False, lambda model, _: as_json({"live": True, "ready": True})),
    ("GET", r"/v2/?", False, lambda model, _: open_inference.server()),
    ("GET", r"/v1/models/?", False, lambda model, _: openai.models(model)),
    ("POST", r"/v1/completions", True, openai.completions),
    ("POST", r"/v1/chat/completions", True, openai.chat_completions),
    ("POST", r"/v1/embeddings", True, openai.embeddings),
    ("GET", rf"{INTERNAL}state", False, lambda model, _: state(model)),
]


def is_counted(method: str, path: str) -> bool:
    """Whether it is a request to the model, and no question about it."""
    return any(counted and method == own and re.fullmatch(pattern, path) for own, pattern, counted, _ in ROUTES)


def answer(model: ServedModel, request: Request) -> Answer:
    """Raises Refused or Unknown."""
    others = set()
    for method, pattern, _, handler in ROUTES:
        if (found := re.fullmatch(pattern, request.path)) is None:
            continue
        if method != request.method:
            others.add(method)
            continue
        named = found.groupdict()
        if named.get("name") not in (None, model.name) or named.get("version") not in (None, "1"):
            raise Unknown(f"There is no such model or version here; there is {model.name}, version 1.")
        return handler(model, request)
    if others:
        raise Refused(f"This address takes {' or '.join(sorted(others))}.")
    raise Unknown(f"Nothing answers at {request.path[:200]}.")


def state(model: ServedModel) -> Answer:
    """For whoever keeps the process alive."""
    return as_json(
        {
            "requests": model.requests,
            "signature": model.signature.model_dump(mode="json"),
            "started_at": model.started_at,
            "minutes": model.traffic.minutes(),
        }
    )
