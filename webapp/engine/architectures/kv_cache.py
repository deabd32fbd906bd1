"""Keys and values that an ONNX language model keeps of the text so far, as inputs and outputs. Needs no torch.

Named and shaped as Optimum's exporter does: `past_key_values.0.key` (batch, heads, tokens so far, size) goes in, and
`present.0.key` comes out, longer by the tokens that were read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

PAST, PRESENT = "past_key_values.", "present."
SO_FAR, WHOLE = "past_sequence", "total_sequence"  # the free axes: of what is kept, and of the mask over all tokens

Array = np.ndarray[Any, Any]


def past_names(layers: int) -> list[str]:
    return [f"{PAST}{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def present_name(past: str) -> str:
    return PRESENT + past.removeprefix(PAST)


def cache_inputs(session: Any) -> list[Any]:
    """Those inputs of an open onnxruntime session that are kept; none where each token reads the whole text again."""
    return [given for given in session.get_inputs() if given.name.startswith(PAST)]


def empty_cache(kept: Iterable[Any], batch: int) -> dict[str, Array]:
    """What is kept of `batch` texts before their first token."""
    return {given.name: np.zeros((batch, given.shape[1], 0, given.shape[3]), np.float32) for given in kept}


class CachedReader:
    """A batch of texts, read part by part: each part is answered as if all before it had been given with it.

    `session` keeps (see `cache_inputs`), and `answer` is the output that is wanted of it.
    """

    def __init__(self, session: Any, answer: str, batch: int = 1) -> None:
        self._session, self._answer = session, answer
        self._kept = empty_cache(cache_inputs(session), batch)
        self._mask = np.ones((batch, 0), np.int64)

    def after(self, ids: Array, mask: Array | None = None) -> Array:
        """The answer (batch, tokens, V) to the next tokens: `ids`, and maybe `mask`, int64 (batch, tokens)."""
        self._mask = np.concatenate([self._mask, np.ones_like(ids) if mask is None else mask], axis=1)
        given = {"input_ids": ids, "attention_mask": self._mask, **self._kept}
        answer, *kept = self._session.run([self._answer, *map(present_name, self._kept)], given)
        self._kept = dict(zip(self._kept, kept, strict=True))
        return np.asarray(answer)
