"""From a model's weights to a module that runs: factors stay apart where a product can run them, all else is decoded.

`build` makes the whole module; `skeleton_of`, `fill` and `release` let work that goes block by block hold only the
tensors that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from webapp.engine.errors import CheckpointRefused
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.weights import Composite, Encoded
from webapp.engine.weights.activations import simulate
from webapp.engine.weights.artifact import read_model
from webapp.engine.weights.memory import release_freed_memory
from webapp.engine.weights.model import Model

from . import architectures
from .resize import resize_to_weights

LARGE_BYTES = 1 << 20
Sources = Mapping[str, Callable[[], Tensor]]  # a way to read each tensor of a module, by its name in the module
Leaves = dict[str, tuple[Encoded, bool]]  # the simple weight behind each, and whether the module holds its transpose


def load(path: str | Path, dtype: torch.dtype | None = None) -> nn.Module:
    """A file that Pare made, as a working module in eval mode.

    Integers and sparse values are decoded in float32 and, where there is another `dtype`, rounded to that; factors
    stay factors.
    Raises CheckpointRefused where the file has no architecture: use `read_model` for its tensors.
    """
    return build(read_model(Path(path)), dtype)


def build(model: Model, dtype: torch.dtype | None = None, keep: bool = True) -> nn.Module:
    """The module of a model's architecture with its weights. Raises CheckpointRefused where a tensor is missing.

    Without `keep` the model gives its weights away and has none in the end: memory never holds both.
    """
    module = skeleton_of(model)
    given = _ReadOnce(sources(model, module))
    if not keep:
        model.weights.clear()
    fill(module, given, module.state_dict(), model.tied, dtype)
    return module.eval()


class _ReadOnce(dict[str, Callable[[], Tensor]]):
    """Readers that are gone once they are looked up, and with them what only they still held."""

    def __getitem__(self, name: str) -> Callable[[], Tensor]:
        return self.pop(name)


def skeleton_of(model: Model) -> nn.Module:
    """The module in eval mode with its tensors on the meta device: its widths are the weights', factors are apart.

    Raises CheckpointRefused.
    """
    if model.architecture is None:
        raise CheckpointRefused("These weights have no architecture that Pare knows, so there is no module to build.")
    module = architectures()[model.architecture.family].skeleton(model.architecture)
    resize_to_weights(module, {name: encoded.shape for name, encoded in _named(model).items()})
    for name, encoded in _named(model).items():
        if isinstance(encoded, Composite):
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
    return _leaves(model, skeleton_of(model))


def _leaves(model: Model, module: nn.Module) -> Leaves:
    from .factored_layers import FactoredModule

    found: Leaves = {}
    for name, encoded in _named(model).items():
        path, _, last = name.rpartition(".")
        part = _submodule(module, path)
        if isinstance(part, FactoredModule) and isinstance(encoded, Composite):
            found |= {f"{path}.{inner}": leaf for inner, leaf in part.leaves(encoded).items()}
        elif isinstance(part, FactoredModule) and last == "bias":
            found[f"{path}.{part.bias_name}"] = (encoded, False)
        else:
            found[name] = (encoded, False)
    return found


def _reader(leaf: Encoded, transposed: bool) -> Callable[[], Tensor]:
    return (lambda: leaf.decode().t().contiguous()) if transposed else leaf.decode


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
        if values[name].nbytes >= LARGE_BYTES:
            release_freed_memory()  # what its decoding took
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


def _named(model: Model) -> dict[str, Encoded]:
    return {**model.weights, **{alias: model.weights[name] for alias, name in model.tied.items()}}


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
