"""A GGUF file of ours, read by gguf-py tensor by tensor into a module of transformers' that its metadata describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, dequantize

from webapp.engine.architectures.build import build
from webapp.engine.architectures.transformers_family import Transformers, parsed_config
from webapp.engine.importers.gguf.names import ROPE_FREQS, apart, permuted_heads, their_name
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.weights import Dense, Encoded
from webapp.engine.weights.model import Model

from .metadata import read_config


def read_module(path: Path) -> nn.Module:
    """The module that answers as the file says; nothing of the checkpoint that it was made from is looked at."""
    reader = GGUFReader(path)
    config = read_config(reader)
    spec, parsed = Transformers.describe(config, ()), parsed_config(config)
    found = {tensor.name: tensor for tensor in reader.tensors}
    module = Transformers.skeleton(spec)
    weights: dict[str, Encoded] = {}
    for name in module.state_dict():
        theirs = their_name(name)
        if theirs in found:
            weights[name] = Dense(_values(found[theirs], permuted_heads(name, parsed)))
    built: Any = build(Model(weights, Transformers.ties(module), spec))
    if ROPE_FREQS in found:
        rotary = built.model.rotary_emb
        rotary.inv_freq = rotary.inv_freq / _values(found[ROPE_FREQS], 0)
    assert isinstance(built, nn.Module)
    return built


def _values(tensor: Any, heads: int) -> Tensor:
    """float32, in the order that transformers has."""
    values = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    shaped = torch.from_numpy(values).reshape([int(size) for size in reversed(tensor.shape)])
    return apart(shaped, heads) if heads else shaped
