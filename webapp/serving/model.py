"""The model that a process serves: its file in onnxruntime, its signature, its tokenizer."""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from webapp.engine.architectures.kv_cache import CachedReader, cache_inputs, empty_cache
from webapp.engine.data.images import MOST_BYTES, ImageUnread, decoded
from webapp.engine.data.preprocessing import Preprocessing
from webapp.engine.exporters.onnx.signature import TextSignature, open_session, signature_of
from webapp.engine.facts import ArchitectureSpec

from . import ABOUT
from .errors import Refused, Unloadable
from .tensors import WHOLE, Array, checked
from .traffic import Traffic

FREE = {"batch": 1, "sequence": 8}  # of a sample to warm up with; other axes are sides of an image
BYTES = "b64"
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


def batch_of(images: Any, preprocessing: Preprocessing, field: str) -> Array:
    """(n, C, height, width) float32 of base64 texts of whole files: JPEG, PNG, … Raises Refused."""
    if not isinstance(images, list) or not images or not all(isinstance(each, str) for each in images):
        raise Refused('Each image has to be {"b64": "…"}: its whole file in base64.', field)
    return np.stack([_prepared(each, preprocessing, f"{field}.{place}") for place, each in enumerate(images)])


def _prepared(text: str, preprocessing: Preprocessing, field: str) -> Array:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("The image is not in base64.", field) from None
    if len(content) > MOST_BYTES:
        raise Refused(f"The image has {len(content):,} bytes; at most {MOST_BYTES:,} are read.", field)
    try:
        return preprocessing.numbers(preprocessing.fitted(decoded(content)))
    except ImageUnread as error:
        raise Refused(f"The file {error}.", field) from None


class ServedModel:
    """Of a folder with the model, its tokenizer's files and ABOUT. Raises Unloadable with a sentence."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / ABOUT).read_bytes())
        self.name: str = about["name"]
        spec = ArchitectureSpec.model_validate(about["architecture"])
        try:
            path = folder / about["model"]
            self.session = open_session(path, about["threads"])
            self.signature = signature_of(path, spec, about["classes"], about["preprocessing"], self.session)
            self._kept = cache_inputs(self.session)
            self.tokens = Tokens(folder, self.signature.text) if self.signature.text else None
            prepared = self.signature.preprocessing
            self.preprocessing = Preprocessing.model_validate(prepared) if prepared else None
        except Exception as error:  # neither library has a class of its own for a broken file
            raise Unloadable(f"The model cannot be loaded: {first_line(error)}") from error
        self._turn = threading.Lock()  # a run uses all its threads; two at once would only disturb each other
        self._first_alone = _by_first_token(folder)
        self.requests = 0
        self.traffic = Traffic()
        self.started_at = int(time.time())
        self._counting = threading.Lock()
        self._warm_up()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The answers by name, of checked inputs. Raises Refused with onnxruntime's own words."""
        names = [each.name for each in self.signature.outputs]
        known = {name: feeds[name] for name in (each.name for each in self.signature.inputs) if name in feeds}
        past = empty_cache(self._kept, len(next(iter(known.values()), ())))
        with self._computing():
            found = self.session.run(names, known | past)
        return dict(zip(names, found, strict=True))

    def reading(self) -> Callable[[Sequence[int]], Array]:
        """Reads a text part by part: the next tokens -> the logits (V,) after the last. Raises Refused, as `run`."""
        read: list[int] = []
        answer = self.signature.outputs[0].name
        keeping = CachedReader(self.session, answer)

        def on(ids: Sequence[int]) -> Array:
            with self._computing():
                return keeping.after(np.array([ids], np.int64))

        def again(ids: Sequence[int]) -> Array:
            read.extend(ids)
            return self.run(self.feeds({"input_ids": np.array([read], np.int64)}))[answer]

        def after(ids: Sequence[int]) -> Array:
            logits: Array = (on if self._kept else again)(ids)[0, -1]
            return logits

        return after

    @contextmanager
    def _computing(self) -> Iterator[None]:
        try:
            with self._turn:
                yield
        except Exception as error:  # see above
            raise Refused(f"The model cannot compute with this input: {first_line(error)}") from error

    def feeds(self, given: Mapping[str, Array]) -> dict[str, Array]:
        return checked(given, self.signature.inputs)

    def read(self, texts: Any, field: str = "text") -> dict[str, Array]:
        """Texts as the model's inputs. Raises Refused where it takes none."""
        if self.tokens is None:
            raise Refused(f"{self.name} takes no text: it is not a model of tokens, or has no tokenizer.", field)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise Refused("text has to be a list of texts.", field)
        of_whole_texts = len(self.signature.outputs[0].shape) == 2  # (texts, classes)
        return self.feeds(self.tokens.batch(texts, padded=not of_whole_texts))

    def look(self, images: Any, field: str) -> dict[str, Array]:
        """Images in base64 as the model's input. Raises Refused where it is not known how they are prepared."""
        if self.preprocessing is None or len(self.signature.inputs) != 1:
            raise Refused(
                f"{self.name} takes numbers: no images evaluated it, so how to prepare one is unknown.", field
            )
        return self.feeds({self.signature.inputs[0].name: batch_of(images, self.preprocessing, field)})

    def embeddings(self, texts: Sequence[str]) -> tuple[Array, int]:
        """One vector of length 1 for each text, pooled as the folder says (else averaged), and the count of tokens."""
        feeds = self.read(list(texts), "input")
        hidden = self.run(feeds)[self.signature.outputs[0].name].astype(np.float32)  # (texts, tokens, width)
        mask = feeds["attention_mask"][..., None]
        pooled = hidden[:, 0] if self._first_alone else (hidden * mask).sum(1) / np.maximum(mask.sum(1), 1)
        lengths = np.linalg.norm(pooled, axis=-1, keepdims=True)
        return pooled / np.maximum(lengths, 1e-12), int(mask.sum())

    def _warm_up(self) -> None:
        """Computes one sample of zeros: the first run takes longer than all others."""
        feeds = {}
        for each in self.signature.inputs:
            shape = [size if isinstance(size, int) else FREE.get(size, 64) for size in each.shape]
            feeds[each.name] = np.full(shape, WHOLE.get(each.name, 0), each.dtype)
        with suppress(Refused):  # another size may suit it; a request will tell
            self.run(feeds)

    def count(self) -> None:
        with self._counting:
            self.requests += 1


def first_line(error: Exception) -> str:
    """Of a library's message, without the source file that onnxruntime puts before it."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.rsplit(" : ", 1)[-1][:300]


def _by_first_token(folder: Path) -> bool:
    """Whether a text's vector is its first token's and not the mean, as sentence-transformers keeps it."""
    path = folder / "1_Pooling" / "config.json"
    told = json.loads(path.read_bytes()) if path.exists() else {}
    return told.get("pooling_mode_cls_token") is True
