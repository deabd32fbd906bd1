"""Reads an untrusted upload, and writes it down in the one form that everything after this reads.

The normalised folder is `model.safetensors` (the same bytes for the same tensors), or links to where they lie
(`weights.originals`), and, for a Hugging Face model, `config.json` and the tokenizer's files. Nothing of the upload is
executed.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from webapp.engine.architectures import architecture, recognise
from webapp.engine.architectures.transformers_family import Transformers, why_not
from webapp.engine.data.preprocessing import told_preprocessing
from webapp.engine.data.tasks import with_task
from webapp.engine.errors import CheckpointRefused, TaskUnfit, json_fault, quoted, some
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, LayerFacts, TensorFacts
from webapp.engine.lazy import torch
from webapp.engine.math.values import all_finite, count_zeros
from webapp.engine.plugins import one_of
from webapp.engine.progress import ProgressPart, Report
from webapp.engine.weights import StoragePlan, stored_facts
from webapp.engine.weights.ggml import BLOCKS
from webapp.engine.weights.manifest import MANIFEST
from webapp.engine.weights.originals import WEIGHTS, lie_in_files, write_index
from webapp.engine.weights.safetensors import (
    MOST_TENSORS,
    NAMES,
    LazyTensor,
    checked_name,
    dtype_name,
    write_safetensors,
)

from . import Opened, importers
from .base import Importer, UntrustedFile
from .gguf.importance import FILE as IMATRIX
from .gguf.importance import Importance, read_importance, write_importance
from .huggingface import FROM_KERAS, HuggingFaceImporter
from .located import located
from .quantized import WIDER, widen
from .reading import SourcesRead
from .stored_forms import check_activations, checked_plan, in_file_order, manifest_of, recognisable

log = logging.getLogger(__name__)

STEP = 0.001  # of the bytes, between two notes of progress
BARE = "linear"
FOREIGN = (  # (offset, bytes) -> what it is
    (0, b"\x89HDF\r\n\x1a\n", f"an HDF5 file, as Keras writes it, whose layers are Python code; {FROM_KERAS}"),
    (
        4,
        b"TFL3",
        "a TensorFlow Lite model; upload the PyTorch or safetensors weights it was made from",
    ),
    (0, b"\x1f\x8b", "a gzip archive; unpack it and upload what is inside, or make a zip of the folder"),
    (257, b"ustar", "a tar archive; make a zip of the folder instead"),
    (0, b"7z\xbc\xaf", "a 7z archive; make a zip of the folder instead"),
    (0, b"Rar!", "a RAR archive; make a zip of the folder instead"),
    (0, b"\x93NUMPY", "a NumPy array; save a state dict with torch.save or as safetensors"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file it points to; run `git lfs pull` first"),
    (0, b"PK", "a zip archive that was cut short; upload it again"),
)
TRANSFORMER = re.compile(r"attn|attention|\.mlp\.|[qkv]_proj")


def inspect_checkpoint(
    upload: Path,
    filename: str,
    out: Path,
    report: Report,
    dequantize: bool = False,
    in_place: bool = False,
    importance: Path | None = None,
) -> CheckpointFacts:
    """Normalises `upload` into the empty folder `out` and returns what is known of it.

    Integers in a Hugging Face folder become floats only where `dequantize` was asked for. `in_place`: somebody named
    the path of a file or folder that stays where it is: what belongs to it is looked for beside it, weights that can be
    used as they are are only linked, and the facts name what was read. `importance` is an importance matrix (imatrix)
    of the model, in place of one that lies beside it.
    Raises CheckpointRefused, with nothing left in `out`, or DiskFull.
    """
    with tempfile.TemporaryDirectory(dir=out, prefix=".inspection-") as scratch:
        upload, only = located(upload, filename) if in_place else (upload, None)
        kind = HuggingFaceImporter if upload.is_dir() else _kind_of(upload, filename)
        report.log(f"Reading {filename} as {kind.name}")
        part = ProgressPart(report, 0.0, 0.3)
        opened = kind.open(UntrustedFile(upload, filename, Path(scratch), part, dequantize, only, in_place))
        read = SourcesRead(opened.sources or {upload.name: upload}, filename) if in_place else None
        if not opened.tensors and not opened.stored:
            raise CheckpointRefused(f"{filename} holds no tensors")
        if len(opened.tensors) > MOST_TENSORS:
            raise CheckpointRefused(f"{filename} holds {len(opened.tensors)} tensors; at most {MOST_TENSORS} are read")
        for name in (*opened.tensors, *opened.stored, *opened.tied):
            checked_name(name, filename)
        _widen(opened, filename)
        _name_bare_layer(opened)
        plans = {name: checked_plan(name, weight, filename) for name, weight in opened.stored.items()}
        _check_dtypes(opened.tensors, plans, filename)
        tensors = {name: tensor.facts(name) for name, tensor in opened.tensors.items()} | {
            name: TensorFacts(name=name, shape=plan.shape, dtype=plan.dtype, stored=stored_facts(plan))
            for name, plan in plans.items()
        }
        spec, because = _recognised(opened, tensors)
        if spec is not None and spec.config.get("assumed"):
            opened.notes.append(spec.config["assumed"])
        layers, tied = _layers(opened, tensors, spec)
        check_activations(opened.activations, layers, filename)
        matrix = _importance(opened, layers, spec, importance)
        kept = ("pare_architecture", MANIFEST)
        metadata = {"format": "pt"} | {name: opened.metadata[name] for name in kept if name in opened.metadata}
        if plans and MANIFEST not in metadata:
            metadata[MANIFEST] = manifest_of(plans, tied, opened.activations)
        zeros: dict[str, int] = {}
        _keep_blocks_of(opened, layers)
        checked = _checked(opened, zeros, ProgressPart(report, 0.3, 0.9))
        checked = in_file_order(checked, opened.stored, plans)
        as_they_came = in_file_order(opened.tensors, opened.stored, plans)
        linked = in_place and lie_in_files(as_they_came, Path(scratch))
        if linked:
            for tensor in checked.values():
                for _ in tensor.slices():
                    pass
        else:
            written = write_safetensors(out / WEIGHTS, checked, metadata)
        sources = read.facts(ProgressPart(report, 0.9, 0.99)) if read else ()
        if linked:
            written = write_index(out, as_they_came, metadata)
        _write_files(out, opened)
        if matrix is not None:
            write_importance(out / IMATRIX, matrix)
    if spec is not None and spec.family == Transformers.family and "tokens" in spec.inputs:
        spec = _with_tokenizer(spec, out, opened)
    if spec is not None and (told := told_preprocessing(out)) is not None:
        inputs = {**spec.inputs, "preprocessing": told.model_dump(mode="json")}
        spec = spec.model_copy(update={"inputs": inputs})
    facts = CheckpointFacts(
        format=kind.name,
        tensors=tuple(_stored(tensor, zeros.get(name, 0), opened) for name, tensor in tensors.items()),
        layers=layers,
        tied=tied,
        architecture=spec,
        weights_only_because=because,
        notes=tuple(opened.notes),
        weights_bytes=written,
        activations=opened.activations,
        sources=sources,
        importance=None if matrix is None else matrix.told(),
    )
    manifest = opened.architecture or {}
    if manifest.get("set_by_owner") is True and isinstance(manifest.get("task"), str):  # of what Pare made it from
        with suppress(TaskUnfit):
            return with_task(facts, manifest["task"])
    return facts


def _kind_of(upload: Path, filename: str) -> type[Importer]:
    with upload.open("rb") as file:
        head = file.read(512)
    for kind in importers().values():
        if kind.recognises(upload, head):
            return kind
    raise CheckpointRefused(_unknown(head, filename))


def _unknown(head: bytes, filename: str) -> str:
    if not head:
        return f"{filename} is empty"
    for offset, magic, sentence in FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            return f"{filename} is {sentence}"
    if filename.endswith(".safetensors"):
        return f"{filename} does not begin with a safetensors header: it is another format, or damaged"
    known = one_of(kind.accepts for kind in importers().values())
    return f"{filename} is of no format that Pare knows; upload {known}"


def _widen(opened: Opened, filename: str) -> None:
    """Of a program the steps are for the dtypes that it has."""
    odd = [name for name, tensor in opened.tensors.items() if dtype_name(tensor.dtype) in WIDER]
    if odd and "pare_architecture" in opened.metadata:
        kind = dtype_name(opened.tensors[odd[0]].dtype)
        raise CheckpointRefused(
            f"{odd[0]} in {filename} is {kind}, which its program cannot be computed with here; export the module with "
            "that in bfloat16 or float32"
        )
    widen(opened, filename)


def _name_bare_layer(opened: Opened) -> None:
    """The state dict of one nn.Linear has no layer's name before its tensors'; everything here goes by such names."""
    alone = opened.config is None and "weight" in opened.tensors and set(opened.tensors) <= {"weight", "bias"}
    if alone and len(opened.tensors["weight"].shape) == 2 and not opened.metadata.get("pare_architecture"):
        opened.tensors = {f"{BARE}.{name}": tensor for name, tensor in opened.tensors.items()}
        opened.notes.append(
            f"Its tensors belong to a layer without a name; it is called {BARE} here and in what is made."
        )


def _check_dtypes(tensors: Mapping[str, LazyTensor], plans: Mapping[str, StoragePlan], filename: str) -> None:
    for name, tensor in tensors.items():
        if dtype_name(tensor.dtype) not in NAMES:
            raise CheckpointRefused(
                f"{name} in {filename} is {dtype_name(tensor.dtype)}; Pare reads {', '.join(NAMES)}"
            )
    floats = any(tensor.dtype.is_floating_point and math.prod(tensor.shape) for tensor in tensors.values())
    if not floats and not any("float" in plan.dtype and plan.size for plan in plans.values()):
        raise CheckpointRefused(f"{filename} holds no floating point tensors, so there is nothing to compress")


def _recognised(opened: Opened, tensors: dict[str, TensorFacts]) -> tuple[ArchitectureSpec | None, str | None]:
    """The spec, or why there is none."""
    if opened.weights_only_because is not None:
        return None, opened.weights_only_because
    tensors = tensors | {
        alias: tensors[source].model_copy(update={"name": alias}) for alias, source in opened.tied.items()
    }
    config = opened.config
    if config is None and "pare_architecture" in opened.metadata:
        try:
            config = {"pare_architecture": json.loads(opened.metadata["pare_architecture"])}
        except (ValueError, RecursionError) as error:
            raise CheckpointRefused(f"pare_architecture in its metadata is {json_fault(error)}") from error
    if config is None and opened.architecture is not None:
        config = recognisable(opened.architecture)
    spec = recognise(tensors, config)
    if spec is not None:
        return spec, None
    if opened.config is not None and (reason := why_not(opened.config)):
        return None, f"The architecture cannot be run: {reason}."
    if any(TRANSFORMER.search(name) for name in tensors):
        return None, (
            "The tensors look like a transformer's and the file has no config.json; "
            "upload its whole Hugging Face folder to have it run and scored."
        )
    return None, (
        "The tensors are not those of a chain of linear layers, a plain CNN, or a ResNet, VGG, MobileNetV2 or "
        "EfficientNet by torchvision's names, and the file does not tell its architecture."
    )


def _checked(opened: Opened, zeros: dict[str, int], report: Report) -> dict[str, LazyTensor]:
    """The tensors, which are looked at, and their zeros counted, while they are read once, whole or slice by slice."""
    tensors = opened.tensors
    total = sum(tensor.bytes for tensor in tensors.values()) or 1
    done, told = 0, 0.0

    def checked(name: str, tensor: LazyTensor) -> LazyTensor:
        def looked_at(value: torch.Tensor) -> torch.Tensor:
            nonlocal done, told
            if value.numel() and not all_finite(value):
                _refuse_not_finite(name, tensor.load(), infinite=name in opened.infinite)
            if value.dtype.is_floating_point:
                zeros[name] = zeros.get(name, 0) + count_zeros(value)
            if done == 0 or done / total >= told + STEP:
                told = done / total
                report.progress(told, f"Checking {name}")
            done += value.nbytes
            return value

        def load() -> torch.Tensor:
            return looked_at(tensor.load())

        def part(start: int, end: int) -> torch.Tensor:
            assert tensor.part is not None
            return looked_at(tensor.part(start, end))

        return LazyTensor(tensor.shape, tensor.dtype, load, part if tensor.part else None)

    found = {name: checked(name, tensor) for name, tensor in tensors.items()}
    for name, (_, raw) in opened.blocks.items():
        found[name + BLOCKS] = _in_blocks(raw, found.pop(name))
    return found


def _in_blocks(raw: LazyTensor, checked: LazyTensor) -> LazyTensor:
    """The blocks, for whose sake the values are looked at once."""

    def load() -> torch.Tensor:
        for _ in checked.slices():
            pass
        return raw.load()

    return replace(raw, load=load, part=None)


def _keep_blocks_of(opened: Opened, layers: Sequence[LayerFacts]) -> None:
    """Of layers' matrices; other tensors are floats, as what goes through all tensors takes them."""
    kept = {layer.weight for layer in layers if layer.kind in ("linear", "embedding") and not layer.transposed}
    opened.blocks = {name: blocks for name, blocks in opened.blocks.items() if name in kept}


def _stored(tensor: TensorFacts, zeros: int, opened: Opened) -> TensorFacts:
    changes: dict[str, Any] = {"zeros": zeros} if zeros else {}
    if tensor.name in opened.blocks:
        kind, raw = opened.blocks[tensor.name]
        changes |= {"block_type": kind, "block_bytes": raw.bytes}
    return tensor.model_copy(update=changes)


def _refuse_not_finite(name: str, value: torch.Tensor, infinite: bool) -> None:
    if infinite and not bool(torch.isnan(value).any()):
        return
    nans, infinities = int(torch.isnan(value).sum()), int(torch.isinf(value).sum())
    counts = [f"{count} {word}" for count, word in ((nans, "NaN"), (infinities, "infinite")) if count]
    raise CheckpointRefused(
        f"{name} holds {' and '.join(counts)} values of {value.numel()}: the checkpoint is broken; "
        "upload one from before its training diverged"
    )


def _write_files(out: Path, opened: Opened) -> None:
    if opened.config is not None:
        (out / "config.json").write_text(json.dumps(opened.config, indent=2, ensure_ascii=False) + "\n")
    for name, source in opened.files.items():
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _with_tokenizer(spec: ArchitectureSpec, out: Path, opened: Opened) -> ArchitectureSpec:
    """The spec that says whether there is a tokenizer that can be read; one that cannot is noted and left out."""
    there = fault = None
    try:
        there = Transformers.tokenizer(spec, out)
        fault = _of_another_model(there, spec, opened) if there is not None else None
    except Exception as error:
        log.info("The tokenizer cannot be read", exc_info=error)
        fault = "Its tokenizer cannot be read and was left out: transformers does not take its files."
    if fault:
        opened.notes.append(fault)
        for name in opened.files:
            if "token" in name or name.startswith(("vocab", "merges")):
                (out / name).unlink()
    return spec.model_copy(update={"inputs": {**spec.inputs, "tokenizer": there is not None and not fault}})


def _of_another_model(tokenizer: Any, spec: ArchitectureSpec, opened: Opened) -> str | None:
    """Why it cannot be the tokenizer of this embedding; what was added to one and never trained is only noted."""
    rows, ids, added = int(spec.inputs["vocab"]), tokenizer.get_vocab(), tokenizer.get_added_vocab()
    highest = max(ids.values(), default=0)
    if highest < rows:
        return None
    sizes = f"Its tokenizer has {len(ids):,} tokens, numbered up to {highest:,}, and its embedding {rows:,} rows"
    if any(number >= rows for token, number in ids.items() if token not in added):
        return f"{sizes}: they are of two different models. The tokenizer was left out; upload the folder with its own."
    beyond = sorted((token for token, number in added.items() if number >= rows), key=added.__getitem__)
    opened.notes.append(f"{sizes}: texts that hold {', '.join(map(quoted, beyond[:5]))} cannot be read.")
    return None


def _layers(
    opened: Opened, tensors: dict[str, TensorFacts], spec: ArchitectureSpec | None
) -> tuple[tuple[LayerFacts, ...], dict[str, str]]:
    """The layers, and the tied names."""
    from webapp.engine.architectures.layers import layers_from_tensors, layers_of  # imports torch

    tied = dict(opened.tied)
    if spec is None:
        return opened.layers if opened.layers is not None else layers_from_tensors(tensors.values(), tied), tied
    module = architecture(spec).skeleton(spec)
    for alias, source in architecture(spec).ties(module).items():
        if alias not in tensors and source in tensors:
            tied[alias] = source
        elif source not in tensors and alias in tensors:
            tied[source] = alias
    return layers_of(module, spec, tied), tied


def _importance(
    opened: Opened, layers: Sequence[LayerFacts], spec: ArchitectureSpec | None, named: Path | None
) -> Importance | None:
    """The importance matrix that was `named`, else one beside the weights, which is left aside where it does not fit.

    Raises CheckpointRefused for one that was named.
    """
    if named is None and opened.importance is None:
        return None
    name, path = (named.name, named) if named is not None else opened.importance or ("", Path())
    try:
        if spec is None or spec.family != Transformers.family:
            raise CheckpointRefused(f"{name} is an importance matrix, which only language models have")
        found = read_importance(path, name)
        if why := found.why_not(layers):
            raise CheckpointRefused(f"{name} {why}")
    except CheckpointRefused as refused:
        if named is not None:
            raise
        opened.notes.append(f"Its importance matrix was left aside. {refused.message.removesuffix('.')}.")
        return None
    lacking = found.lacking(layers)
    without = f" It says nothing of {some(lacking, 2)}." if lacking else ""
    told = f" ({found.told()})" if found.told() else ""
    opened.notes.append(
        f"Its importance matrix, {name}{told}, tells llama.cpp's quantization which inputs matter.{without}"
    )
    return found
