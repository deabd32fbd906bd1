"""The model that a process serves: its file in onnxruntime, its signature, its tokenizer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from webapp.engine.architectures.kv_cache import CachedReader, cache_inputs, empty_cache
from webapp.engine.data.preprocessing import Preprocessing
from webapp.engine.exporters.onnx.signature import open_session, signature_of
from webapp.engine.facts import ArchitectureSpec

from .errors import Refused, Unloadable
from .images import batch_of
from .tensors import WHOLE, Array, checked
from .tokens import Tokens

ABOUT = "about.json"  # {"name", "model": the file, "architecture", "classes", "preprocessing", "threads"}
FREE = {"batch": 1, "sequence": 8}  # of a sample to warm up with; other axes are sides of an image


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
