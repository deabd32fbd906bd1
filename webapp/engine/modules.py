"""From a model's weights to a module that runs: factors stay two matrices, other forms are decoded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .architectures import architectures
from .artifact import read_model
from .encodings import Encoded, Factored
from .errors import CheckpointRefused
from .model import Model


class FactoredLinear(nn.Module):
    """y = (x right^T) left^T + bias, with right (r, in) and left (out, r): two thin products in place of a wide one."""

    def __init__(self, left: Tensor, right: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(left), nn.Parameter(right)
        self.bias = nn.Parameter(bias) if bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.linear(x, self.right), self.left, self.bias)


def load(path: str | Path, dtype: torch.dtype | None = torch.float32) -> nn.Module:
    """A file that Pare made, as a working module in eval mode.

    Integers and sparse values are decoded to `dtype` (None: the dtype that the checkpoint had); factors stay factors.
    Raises CheckpointRefused where the file has no architecture: use `read_model` for its tensors.
    """
    return build(read_model(Path(path)), dtype)


def build(model: Model, dtype: torch.dtype | None = torch.float32) -> nn.Module:
    """The module of a model's architecture with its weights. Raises CheckpointRefused where a tensor is missing."""
    if model.architecture is None:
        raise CheckpointRefused("These weights have no architecture that Pare knows, so there is no module to build.")
    module = architectures()[model.architecture.family].skeleton(model.architecture)
    weights = {**model.weights, **{alias: model.weights[name] for alias, name in model.tied.items()}}
    factored = {name: e for name, e in weights.items() if isinstance(e, Factored)}
    for name, encoded in factored.items():
        bias = weights.get(name.removesuffix("weight") + "bias")
        _replace(module, name.removesuffix(".weight"), encoded, bias, dtype)
    _fill(module, {name: e for name, e in weights.items() if name not in factored}, model.tied, dtype)
    return module.eval()


def _value(encoded: Encoded, dtype: torch.dtype | None) -> Tensor:
    tensor = encoded.decode()
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _replace(module: nn.Module, path: str, factored: Factored, bias: Encoded | None, dtype: torch.dtype | None) -> None:
    left, right = _value(factored.left, dtype), _value(factored.right, dtype)
    if not isinstance(module.get_submodule(path), nn.Linear):  # GPT-2's Conv1D: weight (in, out)
        left, right = right.t().contiguous(), left.t().contiguous()
    parent, _, name = path.rpartition(".")
    thin = FactoredLinear(left, right, _value(bias, dtype) if bias is not None else None)
    setattr(module.get_submodule(parent), name, thin)


def _fill(module: nn.Module, weights: dict[str, Encoded], tied: dict[str, str], dtype: torch.dtype | None) -> None:
    wanted = [name for name in module.state_dict() if not _inside_factored(module, name)]
    missing = [name for name in wanted if name not in weights]
    if missing:
        raise CheckpointRefused(f"The weights lack {', '.join(missing[:5])}, which the architecture needs.")
    state = {name: _value(weights[name], dtype) for name in wanted if name not in tied}
    module.load_state_dict(state, strict=False, assign=True)
    for alias in tied:
        if alias in wanted:
            _tie(module, alias, tied[alias])


def _inside_factored(module: nn.Module, name: str) -> bool:
    return isinstance(module.get_submodule(name.rpartition(".")[0]), FactoredLinear)


def _tie(module: nn.Module, alias: str, name: str) -> None:
    source = module.get_submodule(name.rpartition(".")[0])
    target = module.get_submodule(alias.rpartition(".")[0])
    setattr(target, alias.rpartition(".")[2], getattr(source, name.rpartition(".")[2]))
