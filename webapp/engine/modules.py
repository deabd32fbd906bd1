"""From a model's weights to a module that runs: factors stay two matrices, other forms are decoded.

`build` makes the whole module; `skeleton_of`, `fill` and `release` let work that goes block by block hold only the
tensors that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .architectures import architectures
from .artifact import read_model
from .encodings import Encoded, Factored
from .errors import CheckpointRefused
from .model import Model
from .widths import fit_widths

Sources = Mapping[str, Callable[[], Tensor]]  # a way to read each tensor of a module, by its name in the module


class FactoredLinear(nn.Module):
    """y = left(right(x)), with right (r, in) and left (out, r) and the bias: two thin products for a wide one."""

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.transposed = False  # whether the checkpoint stores the weight as (in, out)
        self.right, self.left = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.left(self.right(x))
        return y


def load(path: str | Path, dtype: torch.dtype | None = torch.float32) -> nn.Module:
    """A file that Pare made, as a working module in eval mode.

    Integers and sparse values are decoded to `dtype` (None: the dtype that the checkpoint had); factors stay factors.
    Raises CheckpointRefused where the file has no architecture: use `read_model` for its tensors.
    """
    return build(read_model(Path(path)), dtype)


def build(model: Model, dtype: torch.dtype | None = torch.float32) -> nn.Module:
    """The module of a model's architecture with its weights. Raises CheckpointRefused where a tensor is missing."""
    module = skeleton_of(model)
    fill(module, sources(model, module), module.state_dict(), model.tied, dtype)
    return module.eval()


def skeleton_of(model: Model) -> nn.Module:
    """The module in eval mode with its tensors on the meta device: its widths are the weights', factors are apart."""
    if model.architecture is None:
        raise CheckpointRefused("These weights have no architecture that Pare knows, so there is no module to build.")
    module = architectures()[model.architecture.family].skeleton(model.architecture)
    fit_widths(module, {name: encoded.shape for name, encoded in _named(model).items()})
    for name, encoded in _named(model).items():
        if isinstance(encoded, Factored):
            _split(module, name.removesuffix(".weight"), encoded)
    return module.eval()


def sources(model: Model, module: nn.Module) -> Sources:
    """How to read each tensor of `module` (made by `skeleton_of`) out of the model, aliases included."""
    found: dict[str, Callable[[], Tensor]] = {}
    for name, encoded in _named(model).items():
        path, _, last = name.rpartition(".")
        if isinstance(encoded, Factored) and isinstance(_submodule(module, path), FactoredLinear):
            first, second = encoded.right.decode, encoded.left.decode
            if module.get_submodule(path).transposed:
                first, second = _turned(encoded.left), _turned(encoded.right)
            found[f"{path}.right.weight"], found[f"{path}.left.weight"] = first, second
        elif path and last == "bias" and isinstance(_submodule(module, path), FactoredLinear):
            found[f"{path}.left.bias"] = encoded.decode
        else:
            found[name] = encoded.decode
    return found


def fill(
    module: nn.Module,
    given: Sources,
    names: Iterable[str],
    tied: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> None:
    """Reads these tensors into the module, floats as `dtype`. Raises CheckpointRefused where one is missing."""
    tied, wanted = tied or {}, list(names)
    missing = [name for name in wanted if name not in given]
    if missing:
        raise CheckpointRefused(f"The weights lack {', '.join(missing[:5])}, which the architecture needs.")
    read = [name for name in wanted if tied.get(name) not in wanted]
    module.load_state_dict({name: _floats_as(given[name](), dtype) for name in read}, strict=False, assign=True)
    for alias in wanted:
        if alias not in read:
            _tie(module, alias, tied[alias])


def release(module: nn.Module, names: Iterable[str]) -> None:
    """Puts these tensors back on the meta device, so that their memory is free."""
    state = module.state_dict()
    module.load_state_dict(
        {name: torch.empty_like(state[name], device="meta") for name in names}, strict=False, assign=True
    )


def _named(model: Model) -> dict[str, Encoded]:
    return {**model.weights, **{alias: model.weights[name] for alias, name in model.tied.items()}}


def _floats_as(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _turned(encoded: Encoded) -> Callable[[], Tensor]:
    return lambda: encoded.decode().t().contiguous()


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _split(module: nn.Module, path: str, factored: Factored) -> None:
    whole = module.get_submodule(path)
    inputs, outputs = factored.shape[1], factored.shape[0]
    transposed = not isinstance(whole, nn.Linear)  # GPT-2's Conv1D: weight (in, out)
    if transposed:
        inputs, outputs = outputs, inputs
    parent, _, name = path.rpartition(".")
    with torch.device("meta"):
        thin = FactoredLinear(inputs, outputs, factored.left.shape[1], getattr(whole, "bias", None) is not None)
        thin.transposed = transposed
    setattr(module.get_submodule(parent), name, thin)


def _tie(module: nn.Module, alias: str, name: str) -> None:
    source = module.get_submodule(name.rpartition(".")[0])
    target = module.get_submodule(alias.rpartition(".")[0])
    setattr(target, alias.rpartition(".")[2], getattr(source, name.rpartition(".")[2]))
