"""llama.cpp itself, as the wheels of xllamacpp hold it, as a module: token ids in, logits out.

https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h. Its structures of parameters change from version to
version: they are taken as it fills them, and only the first number of a context's is set, which has been its length for
years. That is looked at.
"""

from __future__ import annotations

import ctypes
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from webapp.engine.errors import ArtifactUnproven
from webapp.engine.exporters.base import TokensPerSecond
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.math.ggml import library

AT_ONCE = 512  # tokens that are decoded together, as a context is made for by default
ROOM = 1024  # bytes, several times those of any structure of parameters
PROMPT_TOKENS, NEW_TOKENS = 256, 32  # of what is timed
ROUNDS = 3
NEAR = 0.1  # nats of mean KL divergence: 0.016 on a model in 4 to 8 bits, whose inputs it rounds to 8
address, number = ctypes.c_void_p, ctypes.c_int32


class Params(ctypes.Structure):
    """Of a model or a context, of whatever version."""

    _fields_ = (("first", ctypes.c_uint32), ("others", ctypes.c_uint8 * ROOM))


class TokenBatch(ctypes.Structure):
    """`llama_batch`."""

    _fields_ = (
        ("n_tokens", number),
        ("token", ctypes.POINTER(number)),
        ("embd", address),
        ("pos", ctypes.POINTER(number)),
        ("n_seq_id", ctypes.POINTER(number)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(number))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


@cache
def llama() -> Any:
    """llama.cpp's functions, ready. Raises ModuleNotFoundError where they are not installed."""
    found = library()
    signatures = {
        "llama_model_default_params": (Params, []),
        "llama_context_default_params": (Params, []),
        "llama_model_load_from_file": (address, [ctypes.c_char_p, Params]),
        "llama_init_from_model": (address, [address, Params]),
        "llama_model_get_vocab": (address, [address]),
        "llama_vocab_n_tokens": (number, [address]),
        "llama_get_memory": (address, [address]),
        "llama_memory_clear": (None, [address, ctypes.c_bool]),
        "llama_batch_init": (TokenBatch, [number, number, number]),
        "llama_batch_free": (None, [TokenBatch]),
        "llama_decode": (number, [address, TokenBatch]),
        "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [address]),
        "llama_set_n_threads": (None, [address, number, number]),
        "llama_n_ctx": (ctypes.c_uint32, [address]),
        "llama_free": (None, [address]),
        "llama_model_free": (None, [address]),
        "llama_log_set": (None, [address, address]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    found.llama_log_set(_HEARD, None)
    found.llama_backend_init()
    return found


_last_words: list[str] = []


def _hear(level: int, text: bytes, _: Any) -> None:
    """What it says of errors, for the sentence about one."""
    if level >= 4 and text.strip():  # GGML_LOG_LEVEL_ERROR
        _last_words.append(text.decode("utf8", "replace").strip())
        del _last_words[:-3]


_HEARD = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_hear)


def _failed(what: str) -> Exception:
    """For it to be raised: of memory that it did not get it says so itself, and more may be given."""
    told = " ".join(_last_words)
    if "allocate" in told:
        return MemoryError(f"{what} {told}")
    return ArtifactUnproven(f"{what} {told or 'It does not say why.'}")


class LlamaCpp(nn.Module):
    """A GGUF file as llama.cpp runs it, on torch's number of threads. Raises ArtifactUnproven where it does not."""

    near = NEAR

    def __init__(self, path: Path) -> None:
        super().__init__()
        _last_words.clear()
        self.path, self.context, self.length = path, None, 0
        self.model = llama().llama_model_load_from_file(str(path).encode(), llama().llama_model_default_params())
        if not self.model:
            raise _failed(f"llama.cpp does not load {path.name}.")
        self.vocabulary = int(llama().llama_vocab_n_tokens(llama().llama_model_get_vocab(self.model)))
        self.threads = torch.get_num_threads()
        self.batch = llama().llama_batch_init(AT_ONCE, 0, 1)
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        self.runtime = f"llama.cpp (xllamacpp {version('xllamacpp')}), {threads}"

    @property
    def module(self) -> nn.Module:
        return self

    def __del__(self) -> None:
        if getattr(self, "context", None):
            llama().llama_free(self.context)
        if getattr(self, "model", None):
            llama().llama_batch_free(self.batch)
            llama().llama_model_free(self.model)

    def _begin(self, length: int) -> None:
        """A text of at most so many tokens."""
        if length <= self.length:
            llama().llama_memory_clear(llama().llama_get_memory(self.context), True)
            return
        if self.context:
            llama().llama_free(self.context)
        _last_words.clear()
        params = llama().llama_context_default_params()
        params.first = self.length = max(length, AT_ONCE)
        self.context = llama().llama_init_from_model(self.model, params)
        if not self.context or llama().llama_n_ctx(self.context) < length:
            raise _failed(f"llama.cpp makes no context of {length} tokens for {self.path.name}.")
        llama().llama_set_n_threads(self.context, self.threads, self.threads)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> dict[str, Tensor]:
        """logits float32 (B, T, vocabulary); what is masked, at the end of a text, has some too."""
        return {"logits": torch.stack([self.logits(row) for row in input_ids])}

    def logits(self, ids: Tensor) -> Tensor:
        """float32 (T, vocabulary) of one text (T,)."""
        self._begin(len(ids))
        found = torch.empty(len(ids), self.vocabulary)
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE].tolist()
            self._read(some, start, every=True)
            raw = llama().llama_get_logits(self.context)
            size = len(some) * self.vocabulary
            there = (ctypes.c_float * size).from_address(ctypes.addressof(raw.contents))
            held = torch.frombuffer(there, dtype=torch.float32)
            found[start : start + len(some)] = held.reshape(len(some), -1)
        return found

    def _read(self, ids: list[int], start: int, every: bool) -> None:
        """Decodes tokens that come after `start` others; logits of `every` one of them, or of the last."""
        batch = self.batch
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place] = token, start + place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = every or place == len(ids) - 1
        if status := llama().llama_decode(self.context, batch):
            raise _failed(f"llama.cpp does not compute {self.path.name}: status {status}.")

    def speed(self) -> TokensPerSecond:
        """Of tokens that are drawn at random; nothing is sampled."""
        drawn = torch.Generator().manual_seed(0)
        prompt, new = (
            torch.randint(self.vocabulary, (count,), generator=drawn).tolist() for count in (PROMPT_TOKENS, NEW_TOKENS)
        )
        taken: list[tuple[float, float]] = []
        for _ in range(1 + ROUNDS):  # the first warms up
            self._begin(PROMPT_TOKENS + NEW_TOKENS)
            begun = time.perf_counter()
            self._read(prompt, 0, every=False)
            read = time.perf_counter()
            for place, token in enumerate(new):
                self._read([token], PROMPT_TOKENS + place, every=False)
            taken.append((read - begun, time.perf_counter() - read))
        reading, writing = (median(times) for times in zip(*taken[1:], strict=True))
        rates = PROMPT_TOKENS / reading, NEW_TOKENS / writing
        return TokensPerSecond(*rates, PROMPT_TOKENS, NEW_TOKENS, self.threads, self.runtime)
