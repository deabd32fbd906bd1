"""What is known of a checkpoint or a dataset without holding its tensors: plain data that travels as JSON.

Inspection makes these in the child process; the store keeps them; forms, prediction and pages read them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .lazy import Tensor, torch

DTYPE_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}

# recurrent: a matrix of an LSTM, a GRU or an RNN. experts: those of a mixture, stacked in one tensor.
# other: biases, norms, buffers, tables of positions; each tensor for itself
LayerKind = Literal["linear", "conv", "embedding", "recurrent", "experts", "other"]
Task = Literal[
    "classification",
    "text-classification",
    "token-classification",
    "masked-lm",
    "causal-lm",
    "embedding",
    "regression",
    "segmentation",
    "distance",
]
GUESSED = ("sequential", "cnn")  # architectures that are taken for what the shapes allow
PER_TOKEN = ("token-classification", "masked-lm")  # an answer for each token of a text, judged by the original's
BY_NUMBERS: tuple[Task | None, ...] = (None, "regression", "distance")  # answers compared as they are, all of them


Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Stored is (out, in / groups, *kernel), with the kernel () of a plain matrix.

    `transposed`: (in, out / groups, *kernel), as a transposed convolution has it, and GPT-2's Conv1D. `stacked`: one
    matrix (out, in) or, transposed, (in, out) for each of `groups` experts.
    """

    transposed: bool = False
    groups: int = 1
    stacked: bool = False

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Layout:
        """The inverse of `meta`."""
        return cls(bool(meta.get("transposed")), int(meta.get("groups", 1)), bool(meta.get("stacked")))

    @property
    def meta(self) -> dict[str, Any]:
        """What a manifest says. Rows that lie below each other as they are stored need no word."""
        if not self.transposed:
            return {}
        grouped = {"groups": self.groups} if self.groups > 1 else {}
        return {"transposed": True, **grouped, **({"stacked": True} if self.stacked else {})}

    def rows(self, shape: Shape) -> int:
        if self.stacked:
            return shape[0] * shape[2 if self.transposed else 1]
        return self.groups * shape[1] if self.transposed else shape[0]

    def inputs(self, shape: Shape) -> int:
        """How many inputs of an output are neighbours: all of a matrix, the channels of a convolution at one place."""
        if self.stacked:
            return shape[1 if self.transposed else 2]
        return shape[0] // self.groups if self.transposed else shape[1]

    def apart(self, shape: Shape) -> Shape:
        """(groups, in, out, places of the kernel) of a transposed weight, in the order in which it is stored."""
        outputs = self.rows(shape) // self.groups
        size = 1
        for length in shape:
            size *= length
        inputs = self.inputs(shape)
        return self.groups, inputs, outputs, size // max(self.groups * inputs * outputs, 1)

    def matrix(self, weight: Tensor) -> Tensor:
        """(rows, columns)."""
        shape = tuple(weight.shape)
        if not self.transposed:
            return weight.reshape(self.rows(shape), -1)
        return weight.reshape(self.apart(shape)).transpose(1, 2).reshape(self.rows(shape), -1)

    def weight(self, matrix: Tensor, shape: Shape) -> Tensor:
        """The inverse of `matrix`."""
        if not self.transposed:
            return matrix.reshape(shape)
        groups, inputs, outputs, places = self.apart(shape)
        return matrix.reshape(groups, outputs, inputs, places).transpose(1, 2).reshape(shape)


PLAIN = Layout()


class Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoredFacts(Facts):
    """How a file of Pare holds a weight that is not simply a tensor: sparse, as integers, as factors."""

    plan: dict[str, Any]  # of the storage form, as JSON
    label: str  # for people: "int4 groups of 64"
    bytes: int  # of all its parts
    params: int  # values: those of the factors, where it has some
    factored: bool = False


class TensorFacts(Facts):
    name: str
    shape: tuple[int, ...]
    dtype: str  # "float32", as torch names it without the prefix
    zeros: int = 0  # values that are exactly zero, where they were counted (floats, at inspection)
    block_type: str | None = None  # of llama.cpp's blocks ("Q4_K"), of a checkpoint that came in these
    block_bytes: int = 0  # of all of them
    stored: StoredFacts | None = None  # of a checkpoint that Pare made

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def label(self) -> str:
        """How it is stored, for people."""
        return self.stored.label if self.stored else self.block_type or self.dtype

    @property
    def bytes(self) -> int:
        if self.stored is not None:
            return self.stored.bytes
        return self.block_bytes if self.block_type else self.size * DTYPE_BYTES[self.dtype]

    @property
    def is_float(self) -> bool:
        return "float" in self.dtype


class LayerFacts(Facts):
    """A weight that techniques work on. `name` is the module's path, `weight` the tensor's name."""

    name: str
    weight: str
    kind: LayerKind
    shape: tuple[int, ...]
    aliases: tuple[str, ...] = ()  # other layer names that share this very tensor (a tied lm_head)
    transposed: bool = False  # (in, out / groups, ...): of GPT-2's Conv1D, of a transposed convolution
    groups: int = 1  # of a convolution whose channels are apart, its shape (out, in / groups, ...); experts of a stack
    stacked: bool = False  # one matrix for each expert, one after the other: (experts, out, in)

    @property
    def layout(self) -> Layout:
        return Layout(self.transposed, self.groups, self.stacked)

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class ArchitectureSpec(Facts):
    """How to turn tensors into an nn.Module. `config` is whatever the family's builder needs, as JSON."""

    family: str  # names a file in engine/architectures/: "transformers", "sequential", "cnn", "resnet"
    title: str  # for people: "LlamaForCausalLM", "ResNet-18", "MLP 64-32-10"
    task: Task | None  # None: the dataset decides (tasks.py)
    config: dict[str, Any]
    inputs: dict[str, Any] = Field(
        default_factory=dict
    )  # {"shape": [1, 8, 8]}, None where a size is free; {"tokens": 2048}
    outputs: tuple[tuple[int, ...], ...] = ()  # of one sample, as a probe found them; empty where none was made
    set_by_owner: bool = False  # `task`; what the architecture told is then `recognised`
    recognised: Task | None = None

    @property
    def told_task(self) -> Task | None:
        """What the architecture itself tells."""
        return self.recognised if self.set_by_owner else self.task

    @property
    def guess(self) -> str | None:
        """What was assumed of how the layers are wired, as sentences; None where that is certain."""
        found: str | None = self.config.get("assumed") if self.family in GUESSED else None
        return found


STAGES = "hidden_sizes"  # the config's key of models whose residual stream widens from stage to stage


@dataclass(frozen=True)
class Member:
    """A dimension of a tensor: channel c takes `repeat` places of it from offset + c * repeat on.

    `role`: "makes" (rows of a weight that produce the channels), "scales" (bias, normalisation) or "reads" (columns of
    the weight that takes them in).
    """

    tensor: str
    dim: int
    role: Literal["makes", "scales", "reads"]
    repeat: int = 1
    offset: int = 0

    def places(self, channels: Tensor) -> Tensor:
        """The indices of these channels in the dimension."""
        return (self.offset + channels[:, None] * self.repeat + torch.arange(self.repeat)).reshape(-1)


@dataclass(frozen=True)
class Group:
    """`width` channels (or neurons, or attention heads with what belongs to them) that live and die together."""

    kind: Literal["channels", "neurons", "heads"]
    width: int
    members: tuple[Member, ...]  # the tensors that they run through
    key: str = ""  # of a transformers' config, that holds the width: "intermediate_size", or "hidden_sizes.1" of a list
    times: int = 1  # as many channels stay as that many times those of a group of width / times
    stacked: bool = False  # tensors (experts, ...): every expert keeps channels of its own, as many as the others
    multiple: int = 1  # as many stay as a multiple of it
    counts: tuple[int, ...] | None = None  # as many may stay; None: any number

    @property
    def adjusted(self) -> bool:
        """Whether calibration sees those who read it, which then make up for what is cut."""
        return not self.stacked and not self.key.startswith(STAGES)

    def of_role(self, role: str) -> list[Member]:
        return [member for member in self.members if member.role == role]

    @property
    def widths(self) -> frozenset[str]:
        """The tensors that are as long as there are channels: the makers, and what scales the channels after them."""
        return frozenset(member.tensor for member in self.members if member.role != "reads")

    @property
    def makers(self) -> frozenset[str]:
        """The weights that produce the channels."""
        return frozenset(member.tensor for member in self.of_role("makes"))


@dataclass(frozen=True)
class BlockRow:
    """The blocks of a transformers' model: `path` of the row ("model.layers") and how many there are.

    `key` of the config says how many, and each of `lists` has an entry for each block. Without one of those in `fixed`
    the config would describe another model.
    """

    path: str
    count: int
    key: str
    lists: Mapping[str, list[Any]] = field(default_factory=dict)
    fixed: tuple[int, ...] = ()

    def of(self, weight: str) -> int | None:
        """The number of the block that a tensor is in; None outside of them."""
        number, dot, _ = weight.removeprefix(f"{self.path}.").partition(".")
        return int(number) if weight.startswith(f"{self.path}.") and dot and number.isdecimal() else None

    def moved(self, name: str, gone: Collection[int]) -> str | None:
        """What a tensor is called once these blocks are gone; None where it is gone with them."""
        number = self.of(name)
        if number is None:
            return name
        place = number - sum(other < number for other in gone)
        return None if number in gone else f"{self.path}.{place}.{name.removeprefix(f'{self.path}.{number}.')}"

    def without(self, gone: Collection[int]) -> BlockRow:
        """The row once these blocks are gone."""
        stays = [number for number in range(self.count) if number not in gone]
        lists = {key: [values[number] for number in stays] for key, values in self.lists.items()}
        fixed = tuple(stays.index(number) for number in self.fixed if number in stays)
        return BlockRow(self.path, len(stays), self.key, lists, fixed)


class Structure(Facts):
    """What of a model can be cut, and what has to be cut along with it: found in its module, in a child process.

    Steps that change shapes derive that of the model that they leave, so nothing else has to build the module.
    """

    groups: tuple[Group, ...] = ()  # in the order of the model
    stays: dict[str, tuple[str, ...]] = Field(default_factory=dict)  # a sentence: weights whose outputs it keeps
    blocks: BlockRow | None = None
    config: dict[str, Any] = Field(default_factory=dict)  # of a transformers' config what a cut changes, as it is used
    unknown: str | None = None  # a sentence, where it could not be found

    def why_not(self, weight: str) -> str | None:
        """Why the outputs of a weight cannot be cut, where that is known."""
        return next((why for why, weights in self.stays.items() if weight in weights), None)


class PassSize(Facts):
    """What one sample on its way through a model takes, in bytes of float32: found without values, in a child process.

    The sample is a text of `tokens`, or an input of `values` numbers; what is kept of it grows with either.
    """

    tokens: int = 0
    values: int = 0
    largest_bytes: int  # of the inputs and outputs of the layer that has most
    outputs_bytes: int  # of the outputs of all layers, which a backward pass needs
    answer_bytes: int
    given_bytes: int = 0  # of what a block of the longest row is given; 0 without one
    attention_bytes: int = 0  # of the attention maps of all layers: with the square of the length


class SourceFacts(Facts):
    """A file as it was read."""

    name: str  # its path in the folder
    size_bytes: int
    mtime_ns: int  # when it was last written to
    digest: str  # sha256


class CheckpointFacts(Facts):
    format: str  # what was uploaded: "safetensors", "state_dict", "huggingface", "gguf", "exported_program", "onnx"
    tensors: tuple[TensorFacts, ...]  # tied tensors once
    layers: tuple[LayerFacts, ...]
    tied: dict[str, str] = Field(default_factory=dict)  # alias tensor name -> name of the tensor that is stored
    architecture: ArchitectureSpec | None = None
    weights_only_because: str | None = None  # a sentence, where architecture is None
    notes: tuple[str, ...] = ()  # what a user should know: dequantized from Q4_1, NaN in ...
    unwritable: dict[str, str] = Field(default_factory=dict)  # format: why its graph cannot be written in it
    beside: dict[str, int] = Field(default_factory=dict)  # format: bytes of its file beside the weights, where known
    weights_bytes: int  # size of model.safetensors, header included
    activations: dict[str, dict[str, Any]] = Field(
        default_factory=dict
    )  # of a file of Pare: how inputs become integers
    structure: Structure | None = None  # None: without an architecture, or not looked at yet
    pass_size: PassSize | None = None  # None: likewise, or it could not be found
    sources: tuple[SourceFacts, ...] = ()  # what was read of a file or folder that was named by its path
    importance: str | None = None  # of which samples the importance matrix tells that came with it; None: none came

    @property
    def params_total(self) -> int:
        return sum(t.stored.params if t.stored else t.size for t in self.tensors if t.is_float)

    @property
    def dtypes(self) -> dict[str, int]:
        """Parameters per dtype, most first."""
        count: dict[str, int] = {}
        for t in self.tensors:
            count[t.dtype] = count.get(t.dtype, 0) + t.size
        return dict(sorted(count.items(), key=lambda item: -item[1]))

    def tensor(self, name: str) -> TensorFacts:
        return next(t for t in self.tensors if t.name == self.tied.get(name, name))

    def units(self) -> list[LayerFacts]:
        """Everything a step can be for: the layers, then each remaining float tensor as a layer of kind "other"."""
        weights = {layer.weight for layer in self.layers}
        rest = (t for t in self.tensors if t.is_float and t.name not in weights)
        return [*self.layers, *(LayerFacts(name=t.name, weight=t.name, kind="other", shape=t.shape) for t in rest)]


Targets = Literal["classes", "masks", "numbers"]
DatasetKind = Literal["arrays", "text", "labelled-text", "images", "multiple-choice"]


class SplitFacts(Facts):
    """One split of a dataset."""

    n: int  # samples: rows, or characters of text
    per_class: tuple[int, ...] | None = None  # samples of each label, in the labels' order; None beyond 1,000 of them
    digest: str  # sha256 of its file


class DatasetFacts(Facts):
    """A dataset after inspection: a folder with `evaluation.*` and, unless split is "all", `training.*`.

    arrays: *.safetensors with `x` (N, ...) and optional `y`: class numbers (N,) int64, masks of class numbers
    (N, H, W) int64, or numbers (N, ...) float.
    text: *.txt, UTF-8. labelled-text: *.jsonl of {"text", "label"} with integer or float labels (or without "label").
    images: *.zip of the files as they came, with an index.json. multiple-choice: *.jsonl of {"context", "choices",
    "answer"}. Some samples of the evaluation split are told for the page; the pixels of images are in `shown.npz`.
    """

    kind: DatasetKind
    split: Literal["70/30", "given", "all"]
    evaluation: SplitFacts
    training: SplitFacts | None = None
    sample_shape: tuple[int, ...] | None = None  # arrays: one x
    value_range: tuple[float, float] | None = None  # arrays: the least and the largest number that evaluates
    labels: tuple[str, ...] | None = None  # class names, in order; None where there are no classes
    targets: Targets | None = None  # what y or the labels are; None without
    target_shape: tuple[int, ...] = ()  # of one y
    notes: tuple[str, ...] = ()
    samples: tuple[dict[str, Any], ...] = ()  # {"text"}, {"context", …}, {"numbers"} or {"width", …}; and "label"
