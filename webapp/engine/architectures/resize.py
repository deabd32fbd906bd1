"""A module's widths follow its weights: after channels were cut out, the shapes of the tensors are the truth."""

from __future__ import annotations

from collections.abc import Mapping

from webapp.engine.lazy import nn, torch

Shapes = Mapping[str, tuple[int, ...]]


def resize_to_weights(module: nn.Module, shapes: Shapes) -> None:
    """Gives linear, convolution, embedding and normalisation modules on the meta device the shapes of their weights.

    Modules whose forward reads a width from their configuration (attention heads) get it from there instead.
    """
    for name, part in module.named_modules():
        prefix = f"{name}." if name else ""
        told = shapes.get(f"{prefix}weight") or shapes.get(f"{prefix}running_mean")
        own = getattr(part, "weight", None)
        own = getattr(part, "running_mean", None) if own is None else own
        if told is None or own is None or tuple(own.shape) == tuple(told):
            continue
        _resize(part, tuple(told))


def note_sizes(part: nn.Module, shape: tuple[int, ...]) -> None:
    """Tells a module what its weight's shape is, where it keeps sizes of its own."""
    if isinstance(part, nn.Linear):
        part.out_features, part.in_features = shape
    elif isinstance(part, nn.Conv1d | nn.Conv2d):
        if part.groups > 1 and part.groups == part.in_channels:  # depthwise stays depthwise
            part.groups = shape[0] * part.in_channels // part.out_channels
        part.out_channels, part.in_channels = shape[0], shape[1] * part.groups
    elif isinstance(part, nn.Embedding):
        part.num_embeddings, part.embedding_dim = shape
    elif isinstance(part, nn.modules.batchnorm._BatchNorm):
        part.num_features = shape[0]
    elif isinstance(part, nn.LayerNorm):
        part.normalized_shape = shape
    elif hasattr(part, "nf") and len(shape) == 2:  # GPT-2's Conv1D: weight (in, out)
        part.nx, part.nf = shape  # type: ignore[assignment]


def _resize(part: nn.Module, shape: tuple[int, ...]) -> None:
    note_sizes(part, shape)
    for name, value in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
        if value.dim() == 0:
            continue
        wanted = shape if name == "weight" else (_rows(part, shape),)
        fresh = torch.empty(wanted, dtype=value.dtype, device="meta")
        if isinstance(value, nn.Parameter):
            part.register_parameter(name, nn.Parameter(fresh, requires_grad=value.requires_grad))
        else:
            part.register_buffer(name, fresh, persistent=name not in part._non_persistent_buffers_set)


def _rows(part: nn.Module, shape: tuple[int, ...]) -> int:
    """The length of the vectors beside the weight: bias, running mean and variance."""
    return shape[-1] if hasattr(part, "nf") else shape[0]
