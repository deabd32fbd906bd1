"""Which type each tensor of a language model gets in llama.cpp's named mixtures, such as Q4_K_M, by its own rules.

https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp (`llama_tensor_get_type_impl`,
`tensor_type_fallback`); of models whose blocks are alike, without experts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from webapp.engine.facts import CheckpointFacts, LayerFacts
from webapp.engine.math.ggml import TYPES

Mixture = Literal[  # of most bits first
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q5_K",
    "Q5_1",
    "Q5_0",
    "Q4_K_M",
    "Q4_K_S",
    "Q4_K",
    "Q4_1",
    "Q4_0",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "Q3_K",
    "IQ3_M",
    "IQ3_S",
    "IQ3_XS",
    "IQ3_XXS",
    "Q2_K",
    "Q2_K_S",
    "IQ2_M",
    "IQ2_S",
    "IQ2_XS",
    "IQ2_XXS",
]
ALSO = {"Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M"}  # what a mixture is called too
MOSTLY = {  # the type of what no rule is about, where the mixture is not called by it
    **{f"Q{bits}_K_{size}": f"Q{bits}_K" for bits in (5, 4, 3, 2) for size in "SML"},
    "IQ3_M": "IQ3_S",
    "IQ3_XS": "IQ3_S",
    "IQ2_M": "IQ2_S",
    "IQ2_S": "IQ2_XS",
}
FALLBACKS = {  # of blocks of 32, where rows are no whole blocks of 256
    **dict.fromkeys(("IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS"), "IQ4_NL"),
    **dict.fromkeys(("Q3_K", "Q2_K"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
GUIDED = ("Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS")  # that need an importance matrix
BY_DATA = ("Q5_0", "Q4_0", "IQ4_NL", "IQ4_XS")  # whose types depend on whether there is one
TWO_BITS, SMALLEST = ("IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS"), ("IQ2_XS", "IQ2_XXS")
PARTS = ("v_proj", "k_proj", "q_proj", "o_proj", "down_proj", "gate_proj", "up_proj")  # as transformers names them
BLOCK = re.compile(r"\.(\d+)\.")


def exact_type(name: str) -> str:
    """The type itself that a layer gets which is given one of the names: Q4_K of Q4_K_M."""
    return name if name in TYPES else MOSTLY[name]


def fitting(name: str, columns: int) -> str | None:
    """The type that rows of `columns` can have in the place of this one; None where they are no blocks of any."""
    for each in (name, FALLBACKS.get(name)):
        if each is not None and columns % TYPES[each].size == 0:
            return each
    return None


@dataclass(frozen=True)
class Blocks:
    """A language model as the rules see it. `shared`: query heads that read the same keys. `seen`: with data."""

    count: int
    shared: int
    tied: bool
    wide: bool  # a model of 70 billion weights, whose values are few
    seen: bool

    @classmethod
    def of(cls, facts: CheckpointFacts, seen: bool) -> Blocks | None:
        """None of another model, and of one that is stored in other parts."""
        rows = {layer.name: layer.shape[0] for layer in facts.layers if len(layer.shape) == 2 and not layer.transposed}
        numbers = [int(found[1]) for name in rows if name.endswith(PARTS) and (found := BLOCK.search(name))]
        query = next((name for name in rows if name.endswith("q_proj") and BLOCK.search(name)), None)
        values = rows.get(query.replace("q_proj", "v_proj")) if query else None
        if query is None or not values or facts.architecture is None:
            return None
        count, shared = max(numbers) + 1, rows[query] // values
        wide = count == 80 and (shared > 1 or facts.architecture.config.get("model_type") == "qwen2")
        return cls(count, shared, any("lm_head" in name for name in facts.tied), wide, seen)

    def some(self, block: int) -> bool:
        """Whether a block is among those that get more bits: the first and last eighth, and every third between."""
        first = self.count // 8
        return block < first or block >= 7 * self.count // 8 or (block - first) % 3 == 2

    def early(self, block: int, part: int = 8) -> bool:
        return block < self.count // part


def types_of(facts: CheckpointFacts, layers: Sequence[LayerFacts], mixture: str, seen: bool) -> dict[str, str]:
    """The type of each layer by its name, before its shape is looked at. `seen`: there is an importance matrix."""
    mixture, blocks = ALSO.get(mixture, mixture), Blocks.of(facts, seen)
    mostly = MOSTLY.get(mixture, mixture)
    found = {}
    for layer in layers:
        kind, part, number = mostly, layer.name.rpartition(".")[2], BLOCK.search(layer.name)
        if blocks is None:
            pass
        elif part == "lm_head" or (layer.kind == "embedding" and blocks.tied and layer.aliases):
            kind = _head(mixture, mostly, layer.shape[-1])
        elif layer.kind == "embedding":
            kind = _table(mixture, mostly)
        elif number is not None and part in PARTS:
            kind = _in_a_block(mixture, mostly, part, int(number[1]), blocks)
        found[layer.name] = kind
    return found


def _head(mixture: str, mostly: str, columns: int) -> str:
    """Of what the logits are multiplied with, a table of embeddings that is the head too included."""
    if columns % TYPES[mostly].size or mostly == "Q8_0":
        return "Q8_0"
    return "Q5_K" if mixture in (*TWO_BITS, "IQ3_XXS") else "Q6_K"


def _table(mixture: str, mostly: str) -> str:
    if mixture in SMALLEST:
        return "Q2_K"
    return "IQ3_S" if mixture in ("IQ2_M", "IQ2_S", "IQ3_XXS") else mostly


def _in_a_block(mixture: str, mostly: str, part: str, block: int, blocks: Blocks) -> str:
    if mixture in TWO_BITS:
        more = "Q2_K" if mixture in SMALLEST else "IQ3_S"
        if part == "v_proj":
            return "Q4_K" if blocks.shared >= 4 else more
        if part == "o_proj":
            return mostly if mixture in SMALLEST else "IQ3_S"
        return more if part == "down_proj" and blocks.early(block) else mostly
    if part == "v_proj":
        found = _values(mixture, mostly, block, blocks)
        return "Q5_K" if blocks.wide and found in ("Q3_K", "Q4_K") else found
    if part == "down_proj":
        return _down(mixture, mostly, block, blocks)
    if part == "o_proj":
        own = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}
        return own.get(mixture, mostly)
    if part in ("q_proj", "k_proj"):
        return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(mixture, mostly)
    between = not blocks.early(block) and block < 7 * blocks.count // 8  # of gate_proj and up_proj
    return "IQ3_XXS" if mixture == "IQ3_XS" and between else mostly


def _values(mixture: str, mostly: str, block: int, blocks: Blocks) -> str:
    if mixture in ("Q4_K_M", "Q5_K_M"):
        return "Q6_K" if blocks.some(block) else mostly
    if mixture == "Q4_K_S":
        return "Q5_K" if block < 4 else mostly
    if mixture == "Q3_K_M":
        return "Q5_K" if block < 2 else "Q4_K"
    always = {"Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}
    if mixture in always or blocks.shared < 4:
        alone = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_XXS" if blocks.seen else "IQ3_S"}
        return (always | alone).get(mixture, mostly)
    few = dict.fromkeys(("Q2_K", "Q2_K_S", "IQ3_XXS", "IQ3_XS", "IQ3_S"), "Q4_K")
    return (few | dict.fromkeys(("IQ4_NL", "IQ4_XS"), "Q5_K")).get(mixture, mostly)


def _down(mixture: str, mostly: str, block: int, blocks: Blocks) -> str:
    if mixture in ("Q4_K_M", "Q5_K_M"):
        return "Q6_K" if blocks.some(block) else mostly
    if mixture == "Q3_K_M":
        return "Q5_K" if blocks.early(block, 16) else "Q4_K"
    if mixture == "IQ3_XXS" and not blocks.seen:
        return "Q4_K" if blocks.early(block) else "Q3_K"
    if mixture in ("Q2_K", "Q3_K_L"):
        return {"Q2_K": "Q3_K", "Q3_K_L": "Q5_K"}[mixture]
    if not blocks.early(block):
        return mostly
    if mixture in BY_DATA:
        more = {"Q5_0": "Q5_1", "Q4_0": "Q4_1"} if blocks.seen else dict.fromkeys(("IQ4_NL", "IQ4_XS"), "Q5_K")
        return more.get(mixture, mostly)
    return {"Q2_K_S": "Q4_K", "IQ3_M": "Q4_K", "Q4_K_S": "Q5_K"}.get(mixture, mostly)
