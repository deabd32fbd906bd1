"""Recipes to start from, for those who do not know yet what they want."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.engine.recipe import LayerPatterns, Recipe, Step


@dataclass(frozen=True)
class Preset:
    title: str
    summary: str
    recipe: Recipe


def recipe(*steps: tuple[str, dict[str, object]]) -> Recipe:
    return Recipe(
        steps=tuple(Step(technique=name, settings=settings, layers=LayerPatterns()) for name, settings in steps)
    )


PRESETS = (
    Preset("8-bit weights", "A quarter of float32, next to no loss", recipe(("weight_quantization", {"bits": 8}))),
    Preset(
        "4-bit weights",
        "An eighth of float32, in groups of 64",
        recipe(("weight_quantization", {"bits": 4, "granularity": "group", "group_size": 64})),
    ),
    Preset("float16", "Half of float32, no loss to speak of", recipe(("cast", {"dtype": "float16"}))),
    Preset(
        "Prune half, 8-bit",
        "The smaller half of all weights removed, wherever they are; the rest in 8 bits",
        recipe(("magnitude_pruning", {"sparsity": 0.5, "scope": "global"}), ("weight_quantization", {"bits": 8})),
    ),
    Preset(
        "GPTQ, 4-bit",
        "An eighth of float32, rounded so that the answers change least; needs calibration data",
        recipe(("gptq", {"bits": 4, "granularity": "group", "group_size": 64})),
    ),
    Preset(
        "Prune, distil, 8-bit",
        "Half of the weights removed by SparseGPT, the rest taught by the original, then in 8 bits; needs data",
        recipe(("sparsegpt", {"sparsity": 0.5}), ("distillation", {"epochs": 1}), ("weight_quantization", {"bits": 8})),
    ),
    Preset(
        "Low rank, float16",
        "Matrices as two low-rank factors of half the parameters",
        recipe(("low_rank", {"by": "ratio", "ratio": 0.5}), ("cast", {"dtype": "float16"})),
    ),
)
