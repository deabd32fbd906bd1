"""A program's layers: the modules of torch.nn that are found in its steps, and how each is written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from webapp.engine.errors import CheckpointRefused, quoted

Described = Mapping[str, Any]

CONVOLUTIONS: dict[int, type[Any]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}  # by the axes of a place
TRANSPOSED: dict[int, type[Any]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORMS: dict[int, type[Any]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _convolution(about: Described) -> nn.Module:
    sizes = {key: _sizes(about[key]) for key in ("stride", "padding", "output_padding", "dilation") if key in about}
    kind = (TRANSPOSED if "output_padding" in about else CONVOLUTIONS)[len(about["kernel"])]
    made: nn.Module = kind(
        about["in"], about["out"], tuple(about["kernel"]), groups=about["groups"], bias=about["bias"], **sizes
    )
    return made


def _sizes(value: Any) -> Any:
    return value if isinstance(value, str) else tuple(value)  # padding may be "same" or "valid"


def _batch_norm(about: Described) -> nn.Module:
    kind = BATCH_NORMS[about["axes"]]
    norm: Any = kind(about["features"], eps=about["eps"], momentum=about["momentum"], affine=about["affine"])
    if not about["counted"]:
        norm.num_batches_tracked = None
    made: nn.Module = norm
    return made


KINDS: dict[str, Callable[[Described], nn.Module]] = {
    "linear": lambda about: nn.Linear(about["in"], about["out"], bias=about["bias"]),
    "conv": _convolution,
    "embedding": lambda about: nn.Embedding(about["rows"], about["dim"], padding_idx=about["padding"]),
    "batch_norm": _batch_norm,
    "layer_norm": lambda about: nn.LayerNorm(about["shape"], about["eps"], bias=about["bias"]),
    "group_norm": lambda about: nn.GroupNorm(about["groups"], about["channels"], about["eps"]),
}


def layer_of(about: Described) -> nn.Module:
    """The module that a program's description is of. Raises CheckpointRefused for a kind that there is none of."""
    if about.get("kind") not in KINDS:
        raise CheckpointRefused(
            f"the program has a layer of kind {quoted(about.get('kind'))}; known: {', '.join(KINDS)}"
        )
    return KINDS[about["kind"]](about)
