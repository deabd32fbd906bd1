"""From a model's weights to a module that runs: factors stay apart where a product can run them, all else is decoded.

`build` makes the whole module; `skeleton_of`, `fill` and `release` let work that goes block by block hold only the
tensors that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from webapp.engine.errors import CheckpointRefused
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.weights import Composite, Encoded
from webapp.engine.weights.activations import simulate
from webapp.engine.weights.artifact import read_model
from webapp.engine.weights.model import Model

from . import architectures
from .resize import resize_to_weights

if TYPE_CHECKING:
    from .factored_layers import FactoredModule

Sources = Mapping[str, Callable[[], Tensor]]  # a way to read each tensor of a module, by its name in the module
Leaves = dict[str, tuple[Encoded, bool]]  # the simple weight behind each, and whether the module holds its transpose


def load(path: str | Path, dtype: torch.dtype | None = None) -> nn.Module:
    """A file that Pare made, as a working module in eval mode.

    Integers and sparse values are decoded in float32 and, where there is another `dtype`, rounded to that; factors
    stay factors.
    Raises CheckpointRefused where the file has no architecture: use `read_model` for its tensors.
    """
    return build(read_model(Path(path)), dtype)


def build(model: Model, dtype: torch.dtype | None = None) -> nn.Module:
    """The module of a model's architecture with its weights. Raises CheckpointRefused where a tensor is missing."""
    module = skeleton_of(model)
    fill(module, sources(model, module), module.state_dict(), model.tied, dtype)
    return module.eval()


def skeleton_of(model: Model) -> nn.Module:
    """The module in eval mode with its tensors on the meta device: its widths are the weights', factors are apart.

    Raises CheckpointRefused.
    """
    if model.architecture is None:
        raise CheckpointRefused("These weights have no architecture that Pare knows, so there is no module to build.")
    module = architectures()[model.architecture.family].skeleton(model.architecture)
    resize_to_weights(module, {name: model.plan(name).shape for name in model.names})
    for name in model.names:
        if model.plan(name).factors and isinstance(encoded := model.weight(name), Composite):
            _split(module, name.removesuffix(".weight"), encoded)
    simulate(module, model.activations)
    return module.eval()


def sources(model: Model, module: nn.Module) -> Sources:
    """How to read each tensor of `module` (made by `skeleton_of`) out of the model, aliases included."""
    return {name: _reader(leaf, transposed) for name, (leaf, transposed) in _leaves(model, module).items()}


def leaves_of(model: Model) -> Leaves:
    """What is behind each tensor of the model's module, and whether the module holds the transpose of that.

    Tensors that are made of others (the order of a pivoted layer's outputs) are Dense.
    """
    return {name: (leaf(), turned) for name, (leaf, turned) in _leaves(model, skeleton_of(model)).items()}


def _leaves(model: Model, module: nn.Module) -> dict[str, tuple[Callable[[], Encoded], bool]]:
    """The same with a way to read each."""
    from .factored_layers import FactoredModule

    found: dict[str, tuple[Callable[[], Encoded], bool]] = {}
    for name in model.names:
        path, _, last = name.rpartition(".")
        part = _submodule(module, path)
        if isinstance(part, FactoredModule) and model.plan(name).factors:
            for inner, (_, turned) in _leaves_in(part, model, name).items():
                found[f"{path}.{inner}"] = (partial(_leaf, part, model, name, inner), turned)
        elif isinstance(part, FactoredModule) and last == "bias":
            found[f"{path}.{part.bias_name}"] = (partial(model.weight, name), False)
        else:
            found[name] = (partial(model.weight, name), False)
    return found


def _leaves_in(part: FactoredModule, model: Model, name: str) -> Leaves:
    encoded = model.weight(name)
    assert isinstance(encoded, Composite)
    return part.leaves(encoded)


def _leaf(part: FactoredModule, model: Model, name: str, inner: str) -> Encoded:
    return _leaves_in(part, model, name)[inner][0]


def _reader(leaf: Callable[[], Encoded], transposed: bool) -> Callable[[], Tensor]:
    return (lambda: leaf().decode().t().contiguous()) if transposed else (lambda: leaf().decode())


def readers(model: Model, module: nn.Module) -> dict[str, Callable[[Tensor | None], Tensor]]:
    """Like `sources`, and floats become float32; they are put into the tensor that is given, where one is."""

    def reader(leaf: Callable[[], Encoded], transposed: bool) -> Callable[[Tensor | None], Tensor]:
        def read(place: Tensor | None) -> Tensor:
            encoded = leaf()
            if place is None:
                return encoded.decode()
            encoded.decode_into(place.t() if transposed else place)
            return place

        return read

    return {name: reader(leaf, transposed) for name, (leaf, transposed) in _leaves(model, module).items()}


def fill(
    module: nn.Module,
    given: Sources,
    names: Iterable[str],
    tied: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Reads tensors into the module, floats as `dtype` (float32). Raises CheckpointRefused where one is missing."""
    tied, wanted = tied or {}, list(names)
    missing = [name for name in wanted if name not in given]
    if missing:
        raise CheckpointRefused(f"The weights lack {', '.join(missing[:5])}, which the architecture needs.")
    read = [name for name in wanted if tied.get(name) not in wanted]
    values = {}
    for name in read:
        value = given[name]()
        values[name] = value.to(dtype or torch.float32) if value.is_floating_point() else value
    module.load_state_dict(values, strict=False, assign=True)
    for alias in wanted:
        if alias not in read:
            _tie(module, alias, tied[alias])


def release(module: nn.Module, names: Iterable[str]) -> None:
    """Puts these tensors back on the meta device, so that their memory is free."""
    state = module.state_dict()
    module.load_state_dict(
        {name: torch.empty_like(state[name], device="meta") for name in names}, strict=False, assign=True
    )


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _split(module: nn.Module, path: str, encoded: Composite) -> None:
    """Puts the products with its factors in the place of a layer; others compute with what is decoded."""
    from .factored_layers import FactoredModule, runs_factors

    whole, (parent, _, name) = _submodule(module, path), path.rpartition(".")
    if whole is not None and runs_factors(whole):
        with torch.device("meta"):
            setattr(module.get_submodule(parent), name, FactoredModule(whole, encoded))


def _tie(module: nn.Module, alias: str, name: str) -> None:
    source = module.get_submodule(name.rpartition(".")[0])
    target = module.get_submodule(alias.rpartition(".")[0])
    setattr(target, alias.rpartition(".")[2], getattr(source, name.rpartition(".")[2]))
