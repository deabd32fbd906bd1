"""The folder's files: config.json that says how weights are stored, model.safetensors, and what came beside them.

What the library `compressed-tensors` can hold as integers is packed as it does it. Without zero points they are packed
(pack-quantized). With them each integer takes a byte (int-quantized): the library packs zero points as well, but makes
no room for packed ones while transformers loads a model (0.20).
"""

from __future__ import annotations

import json
import logging
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from webapp.engine.architectures.build import skeleton_of
from webapp.engine.architectures.transformers_family import NO_POOLING
from webapp.engine.errors import ExportUnfit, some
from webapp.engine.exporters.onnx.model_call import with_plain_operators
from webapp.engine.exporters.onnx.trace import example
from webapp.engine.math.quantizers import Grid
from webapp.engine.weights import Composite, Dense, Encoded, Quantized, dtype_name, half_dtype
from webapp.engine.weights.memory import is_want_of_memory
from webapp.engine.weights.model import Model
from webapp.engine.weights.originals import is_weights
from webapp.engine.weights.safetensors import LazyTensor, write_safetensors

INSIDE = "model"  # the folder that unpacking gives
CONFIG, WEIGHTS = "config.json", "model.safetensors"
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member, so that the same model gives the same bytes
VLLM_BITS = (4, 8)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackingScheme:
    """How a matrix is quantized: what the library calls a config group."""

    bits: int
    group: int
    symmetric: bool

    @classmethod
    def of(cls, grid: Grid) -> PackingScheme:
        return cls(grid.bits, grid.group, grid.zero_point is None)

    @property
    def form(self) -> str:
        return "pack-quantized" if self.symmetric else "int-quantized"

    @property
    def stored_bits(self) -> int:
        return self.bits if self.symmetric else 8

    def config(self, targets: list[str]) -> dict[str, Any]:
        spread = {"strategy": "group", "group_size": self.group} if self.group else {"strategy": "channel"}
        weights = {"num_bits": self.bits, "type": "int", "symmetric": self.symmetric, "dynamic": False, **spread}
        return {"targets": targets, "weights": weights, "format": self.form}


def why_float(encoded: Encoded, part: nn.Module | None, tied: bool, read: bool = False) -> str | None:
    """Why a weight that is no plain tensor cannot be packed; None where it can, or is one."""
    if isinstance(encoded, Dense):
        return None
    if not isinstance(encoded, Quantized):
        return f"there is no {encoded.plan.label} in compressed-tensors"
    if not isinstance(part, nn.Linear):
        kinds = {2: "an embedding", 3: "a stack of experts" if part is None else "another"}
        return f"only linear layers are packed, and this is {kinds.get(len(encoded.shape), 'another')}"
    if type(part).forward is not nn.Linear.forward:
        return f"a {type(part).__name__} multiplies with its weight itself"
    if tied:
        return "it is tied to the embedding"
    if read:
        return "transformers reads this weight elsewhere than in its layer"
    if encoded.grid.levels is not None:
        return "there are no codebooks in compressed-tensors"
    if encoded.grid.group and encoded.codes.shape[1] % encoded.grid.group:
        return f"its rows of {encoded.codes.shape[1]} are no whole groups of {encoded.grid.group}"
    return None


def stored(name: str, encoded: Quantized) -> dict[str, LazyTensor]:
    """The tensors of a linear layer's weight (out, in), by their names in the file."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    grid, path, shape = encoded.grid, name.removesuffix(".weight"), tuple(encoded.codes.shape)
    offset = 2 ** (grid.bits - 1)

    def signed(codes: Tensor) -> Tensor:
        return torch.as_tensor(codes.to(torch.int16) - offset, dtype=torch.int8)

    found = {f"{path}.weight_scale": LazyTensor(tuple(grid.scale.shape), grid.scale.dtype, lambda: grid.scale)}
    if (zero := grid.zero_point) is not None:
        found[name] = LazyTensor(shape, torch.int8, lambda: signed(encoded.codes))
        found[f"{path}.weight_zero_point"] = LazyTensor(tuple(zero.shape), torch.int8, lambda: signed(zero))
        return found
    words = -(-shape[1] * grid.bits // 32)
    whole = LazyTensor((shape[0], words), torch.int32, lambda: pack_to_int32(signed(encoded.codes), grid.bits))
    sizes = LazyTensor((2,), torch.int64, lambda: torch.tensor(shape))
    return {**found, f"{path}.weight_packed": whole, f"{path}.weight_shape": sizes}


def as_float(encoded: Encoded) -> Encoded:
    """A weight that is not packed: its values in half precision."""
    return Dense(encoded.decode().to(half_dtype(encoded)))


def read_by_others(model: Model) -> set[str]:
    """The layers' paths, found by running the model's shapes, and what transformers does before it loads a file."""
    assert model.architecture is not None
    module: Any = skeleton_of(model)
    with_plain_operators(module)
    module.to("meta")
    found: set[str] = set()
    others = []
    for path, part in module.named_modules():
        if type(part) is nn.Linear:
            part.__class__ = WatchedLinear
            vars(part)["told"] = (path, found)
        else:
            others.append(part)
    name, given = next(iter(example(model.architecture).inputs.items()))
    with torch.no_grad():
        for part in others:
            _attempt(module._init_weights, part)
        _attempt(module, **{name: given.to("meta")})
    return found


def _attempt(work: Callable[..., Any], *given: Any, **named: Any) -> None:
    """The library's own code, which may look at values that are not there."""
    try:
        work(*given, **named)
    except Exception as error:
        if is_want_of_memory(error):
            raise
        log.info("A model's shapes do not run without values", exc_info=True)


class WatchedLinear(nn.Linear):
    """Notes its path where its weight is looked up outside of its own product."""

    told: Any
    inside = False

    def forward(self, x: Tensor) -> Tensor:
        self.inside = True
        try:
            return super().forward(x)
        finally:
            self.inside = False

    def __getattr__(self, name: str) -> Any:
        if name == "weight" and not self.inside:
            path, found = self.told
            found.add(path)
        return super().__getattr__(name)


@dataclass(frozen=True)
class PackedWeights:
    """Which weights are packed, by scheme; which quantized ones are not, and why; the linear layers of floats.

    `dtype` is that of most values in the checkpoint, in which transformers computes unless it is told another.
    """

    schemes: dict[str, PackingScheme]
    floats: dict[str, str]
    plain: list[str]
    dtype: str

    @classmethod
    def of(cls, model: Model) -> PackedWeights:
        """Raises ExportUnfit for factors, for which the architecture has no place."""
        factored = [name for name, encoded in model.weights.items() if isinstance(encoded, Composite)]
        if factored:
            raise ExportUnfit(
                f"{some(factored, 1)} are low-rank factors, for which transformers' own architecture has no place. "
                "Leave the low-rank step out, or this folder."
            )
        parts = dict(skeleton_of(model).named_modules())
        tied, read = {*model.tied, *model.tied.values()}, read_by_others(model)
        schemes, floats, seen = {}, {}, set()
        for name, encoded in model.weights.items():
            path = name.removesuffix(".weight")
            reason = why_float(encoded, parts.get(path), name in tied, path in read)
            if reason:
                floats[name] = reason
            elif isinstance(encoded, Quantized):
                schemes[name] = PackingScheme.of(encoded.grid)
                seen.add(path)
        linear = [path for path, part in parts.items() if isinstance(part, nn.Linear) and path not in seen]
        sizes: Counter[str] = Counter()
        for encoded in model.weights.values():
            if encoded.dtype.is_floating_point:
                sizes[dtype_name(encoded.dtype)] += encoded.plan.size
        return cls(schemes, floats, linear, sizes.most_common(1)[0][0])

    def quantization_config(self) -> dict[str, Any] | None:
        """One group for all linear layers but the ignored, or, of several schemes, groups that name their layers."""
        from compressed_tensors import __version__

        if not self.schemes:
            return None
        groups: dict[PackingScheme, list[str]] = {}
        for name, scheme in self.schemes.items():
            groups.setdefault(scheme, []).append(name.removesuffix(".weight"))
        if len(groups) == 1:
            configs = {"group_0": next(iter(groups)).config(["Linear"])}
        else:
            configs = {f"group_{index}": scheme.config(names) for index, (scheme, names) in enumerate(groups.items())}
        forms = {scheme.form for scheme in groups}
        return {
            "quant_method": "compressed-tensors",
            "version": __version__,
            "format": next(iter(forms)) if len(forms) == 1 else "mixed-precision",
            "quantization_status": "compressed",
            "config_groups": configs,
            "ignore": self.plain,
        }

    def notes(self) -> list[str]:
        counts = Counter(self.floats.values())
        first = {reason: name for name, reason in reversed(list(self.floats.items()))}
        told = [
            f"{first[reason]}{f' and {count - 1} more are' if count > 1 else ' is'} kept in 16-bit floats: {reason}."
            for reason, count in counts.items()
        ]
        schemes = set(self.schemes.values())
        if schemes and self.dtype in ("float16", "bfloat16"):
            told.append(
                f"transformers computes it in {self.dtype}, as the checkpoint says, and rounds what it decodes to "
                "that; from_pretrained(…, dtype=torch.float32), as it is proven here, does not."
            )
        if any(not scheme.symmetric for scheme in schemes):
            told.append("Integers with zero points take a byte each: transformers cannot load packed zero points.")
        if odd := sorted({scheme.bits for scheme in schemes if scheme.symmetric} - {*VLLM_BITS}):
            told.append(f"vLLM has no kernels for {' and '.join(map(str, odd))} bits; transformers runs them.")
        return told


def write_folder(model: Model, path: Path) -> PackedWeights:
    """Writes the zip and says how. Raises ExportUnfit."""
    layout = PackedWeights.of(model)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        weights = Path(scratch) / WEIGHTS
        write_safetensors(weights, dict(_tensors(model, layout)), {"format": "pt"})
        with zipfile.ZipFile(path, "w") as archive:
            config = json.dumps(_config(model, layout), indent=2) + "\n"
            archive.writestr(zipfile.ZipInfo(f"{INSIDE}/{CONFIG}", EPOCH), config)
            _add(archive, weights, WEIGHTS)
            for file in sorted(model.files.rglob("*")) if model.files else ():
                name = file.relative_to(model.files or file).as_posix()
                if file.is_file() and name != CONFIG and not is_weights(name):
                    _add(archive, file, name)
    return layout


def _tensors(model: Model, layout: PackedWeights) -> Iterator[tuple[str, LazyTensor]]:
    for name, encoded in model.weights.items():
        if name in layout.schemes:
            assert isinstance(encoded, Quantized)
            yield from stored(name, encoded).items()
        elif name in layout.floats:
            float_ = as_float(encoded)
            yield name, LazyTensor(float_.shape, float_.dtype, float_.decode)
        else:
            yield name, LazyTensor(tuple(encoded.shape), encoded.dtype, encoded.decode)


def _config(model: Model, layout: PackedWeights) -> dict[str, Any]:
    assert model.architecture is not None
    config = {key: value for key, value in model.architecture.config.items() if key != NO_POOLING}
    config.pop("torch_dtype", None)
    config["dtype"] = layout.dtype
    quantization = layout.quantization_config()
    return config if quantization is None else {**config, "quantization_config": quantization}


def _add(archive: zipfile.ZipFile, file: Path, name: str) -> None:
    info = zipfile.ZipInfo(f"{INSIDE}/{name}", EPOCH)
    info.file_size = file.stat().st_size
    with file.open("rb") as source, archive.open(info, "w", force_zip64=True) as target:
        while chunk := source.read(1 << 20):
            target.write(chunk)
