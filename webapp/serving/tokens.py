"""Text as the tokens of a model, and back: the tokenizers library, and the files of the tokenizer's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from webapp.engine.exporters.onnx.signature import TextSignature

from .errors import Refused
from .tensors import Array

LONGEST_TEXT = 1_000_000  # characters


class Tokens:
    def __init__(self, folder: Path, text: TextSignature) -> None:
        from tokenizers import Tokenizer  # the web process speaks of tokens and reads none

        self.tokenizer = Tokenizer.from_file(str(folder / text.tokenizer))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self._cutting = Tokenizer.from_str(self.tokenizer.to_str())  # another one: requests come at the same time
        self._cutting.enable_truncation(text.max_tokens)
        self.max_tokens = text.max_tokens
        self._settings = _json(folder / "tokenizer_config.json")
        self._template = _template(folder, self._settings)
        self.ends = self._ends(folder)
        self._pad = self.tokenizer.token_to_id(self._special("pad_token") or "")

    def ids(self, text: str, special: bool = True, cut: bool = False) -> list[int]:
        """The tokens of one text. Raises Refused where it is too long to be read."""
        if len(text) > LONGEST_TEXT:
            raise Refused(f"The text has {len(text):,} characters; at most {LONGEST_TEXT:,} are read.")
        tokenizer = self._cutting if cut else self.tokenizer
        found: list[int] = tokenizer.encode(text, add_special_tokens=special).ids
        return found

    def batch(self, texts: Sequence[str], padded: bool = True) -> dict[str, Array]:
        """input_ids and attention_mask (texts, longest), each text cut after `max_tokens`.

        Not `padded`: of a model that finds a text's end by its padding token. Raises Refused where it has none and the
        texts are of different lengths.
        """
        rows = [self.ids(text, cut=True) for text in texts]
        longest = max(map(len, rows), default=0)
        if not longest or not all(rows):
            raise Refused("There is no text to read: a text is empty, or none was sent.")
        if not padded and self._pad is None and len(set(map(len, rows))) > 1:
            raise Refused("The model has no padding token: send texts of different lengths one at a time.", "text")
        ids = np.full((len(rows), longest), self._pad or 0, np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)], mask[place, : len(row)] = row, 1
        return {"input_ids": ids, "attention_mask": mask}

    def text(self, ids: Sequence[int]) -> str:
        decoded: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return decoded

    def chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """A conversation as the tokens after which the model answers, by the template of its own tokenizer.

        Raises Refused.
        """
        if self._template is None:
            raise Refused("The model's tokenizer has no chat template; use /v1/completions.")
        sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        sandbox.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
        sandbox.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.now().strftime(form))
        special = {name: self._special(name) or "" for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        try:
            written = sandbox.from_string(self._template).render(
                messages=messages, add_generation_prompt=True, tools=None, documents=None, **special
            )
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise Refused(f"The chat template cannot be applied to these messages: {error}", "messages") from error
        return self.ids(written, special=False)

    def _special(self, name: str) -> str | None:
        token = self._settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        return token if isinstance(token, str) else None

    def _ends(self, folder: Path) -> frozenset[int]:
        """The tokens with which the model says that it is done."""
        found: set[int] = set()
        for name in ("generation_config.json", "config.json"):
            told = _json(folder / name).get("eos_token_id")
            found.update(id for id in (told if isinstance(told, list) else [told]) if type(id) is int)
        token = self.tokenizer.token_to_id(self._special("eos_token") or "")
        return frozenset(found | ({token} if token is not None else set()))


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _template(folder: Path, settings: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf8")
    told = settings.get("chat_template")
    if isinstance(told, list):
        told = next((each.get("template") for each in told if each.get("name") == "default"), None)
    return told if isinstance(told, str) else None
