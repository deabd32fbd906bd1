"""What a delivered ONNX file takes and answers with, as plain data: for what serves it or packs it.

Read from the file itself by onnxruntime; what a graph cannot tell (the task, names of classes, how text becomes
tokens) comes from the facts. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from webapp.engine.architectures.kv_cache import PAST, PRESENT, WHOLE
from webapp.engine.facts import ArchitectureSpec, Facts

FILE = "signature.json"  # where it lies beside the model
TOKENIZER = "tokenizer.json"
EXAMPLE = "example.npz"  # beside its proof: "input.NAME" for each input, and the "output" that it gave
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class TensorSignature(Facts):
    """`dtype` as numpy names it; an axis that may have any size is named: "batch", "sequence", "height"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class TextSignature(Facts):
    """How text becomes `input_ids`: by the tokenizers library, cut after `max_tokens`."""

    tokenizer: str = TOKENIZER
    max_tokens: int


class Signature(Facts):
    format: Literal[1] = 1
    title: str  # of the architecture: "LlamaForCausalLM"
    task: str | None  # "classification", "text-classification", "causal-lm", "embedding"
    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]
    classes: tuple[str, ...] | None = None  # names in the order of the last axis of the answer
    text: TextSignature | None = None  # where the model takes tokens and its tokenizer lies beside it
    preprocessing: dict[str, Any] | None = None  # of images, as the dataset that evaluated it was prepared


def signature_of(
    model: Path,
    spec: ArchitectureSpec,
    classes: Sequence[str] | None = None,
    preprocessing: dict[str, Any] | None = None,
    session: Any = None,
) -> Signature:
    """Of an ONNX file; its tokenizer is looked for beside it. `session` is the file in onnxruntime, if it is open.

    What a language model keeps between its tokens (see `kept`) is no input of whoever asks it.
    """
    opened = session or open_session(model, threads=1)
    answer = tuple(_tensor(found) for found in opened.get_outputs() if not found.name.startswith(PRESENT))
    text = None
    if "vocab" in spec.inputs and (model.parent / TOKENIZER).exists():
        text = TextSignature(max_tokens=int(spec.inputs["tokens"]))
    return Signature(
        title=spec.title,
        task=spec.task,
        inputs=tuple(_tensor(found) for found in opened.get_inputs() if not found.name.startswith(PAST)),
        outputs=answer,
        classes=_fitting(classes, answer),
        text=text,
        preprocessing=preprocessing,
    )


def open_session(model: Path, threads: int) -> Any:
    """The file in onnxruntime, on the processor. No library of foreign operators is ever registered."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def write_signature(signature: Signature, folder: Path) -> None:
    (folder / FILE).write_text(signature.model_dump_json(indent=2) + "\n", encoding="utf8")


def _tensor(found: Any) -> TensorSignature:
    """Of a session's input or output; an axis that has no name is called by its place."""
    names = {WHOLE: "sequence"}  # of a text that is read at once
    shape = (
        size if isinstance(size, int) else names.get(size, size) or f"axis_{place}"
        for place, size in enumerate(found.shape)
    )
    return TensorSignature(name=found.name, dtype=DTYPES[found.type], shape=tuple(shape))


def _fitting(classes: Sequence[str] | None, outputs: tuple[TensorSignature, ...]) -> tuple[str, ...] | None:
    """The names, if there is one for each place of the answer's last axis."""
    last = outputs[0].shape[-1] if outputs[0].shape else None
    return tuple(classes) if classes and len(classes) == last else None
