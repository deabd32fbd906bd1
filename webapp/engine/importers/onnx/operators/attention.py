"""Attention as one operator, as opset 23 has it, and rotary position embeddings."""

from __future__ import annotations

import math
from typing import Any

from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.importers.onnx.values import Value, tensor
from webapp.engine.lazy import Tensor, torch

from .table import operator


def _heads(x: Tensor, count: int | None) -> Tensor:
    """(B, T, heads size) to (B, heads, T, size)."""
    if x.dim() == 4:
        return x
    if not count:
        raise NotRun("does not tell the number of heads of an Attention")
    return x.reshape(x.shape[0], x.shape[1], count, x.shape[2] // count).transpose(1, 2)


@operator("Attention")
def attention(node: Any, q: Value, k: Value, v: Value, mask: Value | None = None, *past: Value | None) -> Value:
    if any(value is not None for value in past) or any(node.outputs[1:]) or node.get("softcap", 0.0):
        raise NotRun("uses an Attention with a cache, a cap, or its scores")
    flat = tensor(q).dim() == 3
    queries = _heads(tensor(q), node.get("q_num_heads"))
    keys, values = (_heads(tensor(x), node.get("kv_num_heads")) for x in (k, v))
    groups = queries.shape[1] // keys.shape[1]
    if groups > 1:
        keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    scale = node.get("scale", 1 / math.sqrt(queries.shape[-1]))
    scores = torch.matmul(queries, keys.transpose(-1, -2)) * scale  # (B, heads, T, S)
    if mask is not None:
        own = tensor(mask)
        scores = scores.masked_fill(~own, -math.inf) if own.dtype == torch.bool else scores + own
    if node.get("is_causal", 0):
        places = torch.arange(scores.shape[-2]).unsqueeze(1), torch.arange(scores.shape[-1]).unsqueeze(0)
        scores = scores.masked_fill(places[1] > places[0], -math.inf)
    made = torch.matmul(torch.softmax(scores, -1), values)
    return made.transpose(1, 2).flatten(2) if flat else made


@operator("RotaryEmbedding")
def rotary(node: Any, x: Value, cos: Value, sin: Value, places: Value | None = None) -> Value:
    """Of (B, heads, T, size), or (B, T, heads size) with `num_heads`; the caches are (T, size / 2)."""
    value = tensor(x)
    apart = _heads(value, node.get("num_heads"))
    part = node.get("rotary_embedding_dim", 0) or apart.shape[-1]
    rotated, rest = apart[..., :part], apart[..., part:]
    c, s = tensor(cos), tensor(sin)
    if places is not None:
        at = tensor(places)
        c, s = (torch.reshape(t.index_select(0, at.flatten()), (*at.shape, t.shape[-1])) for t in (c, s))
    c, s = c[..., : part // 2].unsqueeze(1), s[..., : part // 2].unsqueeze(1)  # (B, 1, T, part / 2)
    if node.get("interleaved", 0):
        a, b = rotated[..., 0::2], rotated[..., 1::2]
        made = torch.stack((a * c - b * s, a * s + b * c), -1).flatten(-2)
    else:
        a, b = rotated[..., : part // 2], rotated[..., part // 2 :]
        made = torch.cat((a * c - b * s, a * s + b * c), -1)
    whole = torch.cat((made, rest), -1) if part != apart.shape[-1] else made
    return whole if value.dim() == 4 else whole.transpose(1, 2).flatten(2)
