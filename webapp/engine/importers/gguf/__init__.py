"""A GGUF file of a language model that transformers loads, its blocks and its tokenizer kept.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Config and tokenizer are read by transformers; the tensors
are dequantized one at a time by gguf-py and laid out by transformers' tables; matrices whose rows that leaves whole
stay in their blocks, where Pare has such.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from webapp.engine.architectures.transformers_family import Transformers, beyond_any, why_not
from webapp.engine.errors import CheckpointRefused
from webapp.engine.importers.base import Importer, Opened, UntrustedFile
from webapp.engine.importers.beside import FilesBeside
from webapp.engine.lazy import Tensor
from webapp.engine.plugins import Accepted
from webapp.engine.progress import Report
from webapp.engine.weights.safetensors import LazyTensor

from .header import check_header
from .importance import NAMED, matrices_among

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
UNQUANTIZED = ("F64", "F32", "F16", "BF16")


class GgufImporter(Importer):
    name = "gguf"
    accepts = Accepted(
        (".gguf",),
        "GGUF",
        "A language model of llama.cpp (LLaMA, Qwen, Gemma, Phi, GPT-2, …); quantized weights stay in their blocks.",
    )
    priority = 20
    dequantizes = True

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        return head[:4] == b"GGUF"

    @classmethod
    def open(cls, upload: UntrustedFile) -> Opened:
        from . import model
        from .reader import read

        path, filename = upload.path, upload.filename
        upload.report.progress(0.02, "Reading the GGUF header")
        values = check_header(path, filename)
        if too_large := beyond_any(values):
            raise CheckpointRefused(f"{filename} has {too_large}, beyond any model there is")
        with _damage_named(filename):
            reader = read(path)
            architecture = _text(reader, "general.architecture")
            reason = model.why_not(architecture, reader)
            nonsense = model.absurd(architecture, reader)
        if reason:
            raise CheckpointRefused(f"{filename} {reason}. Upload the model's Hugging Face folder instead")
        if nonsense:
            raise CheckpointRefused(f"{filename} {nonsense}: it is damaged")
        with _damage_named(filename):
            config = model.config_of(reader, architecture, path)
            if reason := why_not(config):
                raise CheckpointRefused(f"{filename}: {reason}")
            module = Transformers.skeleton(Transformers.describe(config, ()))
            tensors, blocks, beside = model.tensors_of(reader, architecture, config, module, filename)
        blocks = {} if upload.dequantize else blocks
        notes = _told(reader, path, tensors, blocks)
        rope = config.get("rope_parameters") or {}
        if beside and rope.get("rope_type", "default") == "default":
            notes.append(f"Its {beside[0]} (positions stretched for long texts) is not applied.")
        files = _tokenizer(path, filename, upload.scratch, notes, upload.report)
        guarded = {name: replace(tensor, load=_guarded(tensor, filename)) for name, tensor in tensors.items()}
        opened = Opened(tensors=guarded, config=config, files=files, notes=notes, blocks=blocks)
        if upload.in_place:
            _look_beside(opened, path)
        return opened


@contextmanager
def _damage_named(filename: str) -> Iterator[None]:
    """Turns what gguf-py and transformers raise on a damaged file into its sentence."""
    try:
        yield
    except (ValueError, LookupError, TypeError, ArithmeticError, UnicodeError, OSError, AttributeError) as error:
        raise CheckpointRefused(
            f"{filename} is a GGUF file that was cut short or damaged, or holds what Pare cannot read"
        ) from error


def _look_beside(opened: Opened, path: Path) -> None:
    """Takes an importance matrix in the file's folder."""
    beside = FilesBeside(path.parent, path.parent.name)
    names = (name for name in os.listdir(path.parent) if NAMED.fullmatch(name) and name != path.name)
    sizes = {name: beside[name].stat().st_size for name in names if name in beside}
    for name in matrices_among(sizes, opened.notes):
        opened.importance = name, path.parent / name
        opened.sources = {path.name: path, name: path.parent / name}


def _text(reader: Any, key: str) -> str:
    field = reader.get_field(key)
    if field is None:
        raise CheckpointRefused(f"The GGUF file does not say its {key}.")
    return str(field.contents())


def _tokenizer(upload: Path, filename: str, scratch: Path, notes: list[str], report: Report) -> dict[str, Path]:
    from transformers import AutoTokenizer

    report.progress(0.05, "Reading its tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            pretrained_model_name_or_path=upload.parent, gguf_file=upload.name, local_files_only=True
        )
    except Exception as error:  # the library raises what it likes for kinds that it does not know
        first = (str(error).splitlines() or [type(error).__name__])[0]
        notes.append(f"The tokenizer in {filename} cannot be read and was left out: {first}")
        return {}
    tokenizer.save_pretrained(scratch)
    return {name: scratch / name for name in TOKENIZER_FILES if (scratch / name).exists()}


def _guarded(tensor: LazyTensor, filename: str) -> Callable[[], Tensor]:
    def load() -> Tensor:
        with _damage_named(filename):
            return tensor.load()

    return load


def _told(
    reader: Any, upload: Path, tensors: dict[str, LazyTensor], blocks: dict[str, tuple[str, LazyTensor]]
) -> list[str]:
    """In which numbers the weights are held, beside those that they came in."""
    types: Counter[str] = Counter()
    for tensor in reader.tensors:
        types[tensor.tensor_type.name] += int(np.prod(tensor.shape))
    kept: Counter[str] = Counter()
    for kind, raw in blocks.values():
        kept[kind] += raw.bytes
    size = f"the upload is {upload.stat().st_size / 1e6:.1f} MB"
    rest = sum(tensor.bytes for name, tensor in tensors.items() if name not in blocks)
    if kept:
        told = ", ".join(f"{count / 1e6:.1f} MB in {kind}" for kind, count in kept.most_common())
        return [f"its blocks are kept as they are: {told}; other tensors as float32, {rest / 1e6:.1f} MB; {size}"]
    quantized = [name for name, _ in types.most_common() if name not in UNQUANTIZED]
    verb = f"dequantized from {' and '.join(quantized)}" if quantized else f"widened from {' and '.join(types)}"
    return [f"{verb} to float32: {size}, its float32 form is {rest / 1e6:.1f} MB"]
