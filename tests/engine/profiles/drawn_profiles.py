"""Profiles for tests: drawn at random, of models that only facts tell of."""

from __future__ import annotations

import numpy as np

from webapp.engine.facts import (
    ArchitectureSpec,
    BlockRow,
    CheckpointFacts,
    Group,
    LayerFacts,
    Member,
    Structure,
    TensorFacts,
)
from webapp.engine.profiles.cuts import offered
from webapp.engine.profiles.facts import KEPT, LayerOptions, Measurement, Option, OptionStep, ProfileFacts
from webapp.engine.profiles.menu import planned
from webapp.engine.weights import DensePlan
from webapp.engine.weights.artifact import predicted_size

DTYPES = ("float32", "bfloat16", "float16")
BLOCK = {
    "self_attn.q_proj": (1, 1),
    "self_attn.k_proj": (0.5, 1),
    "self_attn.v_proj": (0.5, 1),
    "self_attn.o_proj": (1, 1),
    "mlp.gate_proj": (2, 1),
    "mlp.up_proj": (2, 1),
    "mlp.down_proj": (1, 2),
}
ODD = {  # layers that are stored in other ways
    "conv1": ("conv", (16, 8, 3, 3), {}),
    "dw": ("conv", (16, 1, 3, 3), {"groups": 16}),
    "h.0.c_attn": ("linear", (32, 96), {"transposed": True}),
    "moe[0].experts": ("experts", (4, 24, 32), {"groups": 4, "stacked": True}),
}


def drawn_facts(blocks: int = 2, width: int = 32, dtype: str = "float32", odd: bool = False) -> CheckpointFacts:
    """A language model with a head that is tied to its embedding; `odd` layers beside it where asked."""
    layers = [
        LayerFacts(name="model.embed_tokens", weight="", kind="embedding", shape=(96, width), aliases=("lm_head",))
    ]
    for block in range(blocks):
        for name, (rows, columns) in BLOCK.items():
            shape = (int(rows * width), int(columns * width))
            layers.append(LayerFacts(name=f"model.layers.{block}.{name}", weight="", kind="linear", shape=shape))
    for name, (kind, shape, more) in (ODD if odd else {}).items():
        layers.append(LayerFacts(name=name, weight="", kind=kind, shape=shape, **more))
    layers = [layer.model_copy(update={"weight": f"{layer.name}.weight"}) for layer in layers]
    vectors = [f"model.layers.{block}.{name}.weight" for block in range(blocks) for name in ("norm", "ln")]
    tensors = [TensorFacts(name=layer.weight, shape=layer.shape, dtype=dtype) for layer in layers]
    tensors += [TensorFacts(name=name, shape=(width,), dtype=dtype) for name in vectors]
    tied = {"lm_head.weight": "model.embed_tokens.weight"}
    spec = ArchitectureSpec(family="transformers", title="Drawn", task="causal-lm", config={"hidden_size": width})
    plans = {tensor.name: DensePlan(tensor.shape, tensor.dtype) for tensor in tensors}
    return CheckpointFacts(
        format="huggingface",
        tensors=tuple(tensors),
        layers=tuple(layers),
        tied=tied,
        architecture=spec,
        weights_bytes=predicted_size(plans, tied, spec)[1],
    )


def with_drawn_cuts(
    rng: np.random.Generator, facts: CheckpointFacts, profile: ProfileFacts
) -> tuple[CheckpointFacts, ProfileFacts]:
    """The language model with the structure of its blocks, of eight heads each, and what may be cut out of it."""
    width, blocks = facts.layers[0].shape[1], sum(layer.name.endswith(".q_proj") for layer in facts.layers)
    size, groups = width // 8, []
    for block in range(blocks):
        attention, mlp = (f"model.layers.{block}.{part}" for part in ("self_attn", "mlp"))
        wide = {"q_proj": 2 * size, "k_proj": size, "v_proj": size}
        heads = [Member(f"{attention}.{name}.weight", 0, "makes", repeat) for name, repeat in wide.items()]
        heads.append(Member(f"{attention}.o_proj.weight", 1, "reads", 2 * size))
        neurons = [Member(f"{mlp}.{name}.weight", 0, "makes") for name in ("gate_proj", "up_proj")]
        neurons.append(Member(f"{mlp}.down_proj.weight", 1, "reads"))
        groups.append(Group("heads", 4, tuple(heads), "num_attention_heads"))
        groups.append(Group("neurons", 2 * width, tuple(neurons), "intermediate_size"))
    config = {"hidden_size": width, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": size}
    row = BlockRow("model.layers", blocks, "num_hidden_layers")
    facts = facts.model_copy(update={"structure": Structure(groups=tuple(groups), blocks=row, config=config)})
    order = rng.permutation(blocks).tolist()
    offers = offered(facts)
    losses = np.sort(rng.lognormal(-2, 1.5, len(offers))).tolist()
    cuts = tuple(
        offer.cut(facts, loss, order[: offer.offer.blocks]) for offer, loss in zip(offers, losses, strict=True)
    )
    return facts, profile.model_copy(update={"cuts": cuts})


def drawn_profile(seed: int, facts: CheckpointFacts, options: int = 24, measured: int = 0) -> ProfileFacts:
    """Each layer with up to so many of the options that its kind has; losses as a sensitivity and a menu give them."""
    rng = np.random.default_rng(seed)
    layers = tuple(_options(rng, layer, facts, options) for layer in facts.layers)
    vectors = [unit for unit in facts.units() if unit.kind == "other"]
    stored = sum(facts.tensor(unit.weight).bytes for unit in vectors)
    params = sum(unit.size for unit in vectors)
    bound = [Option(label="kept", family=KEPT, bytes=stored, loss=0.0)]
    if stored > 2 * params:
        cast = (OptionStep(technique="cast", settings={"dtype": "float16"}),)
        bound.append(Option(label="float16", family="Quantization", steps=cast, bytes=2 * params, loss=1e-9))
    names = tuple(unit.name for unit in vectors)
    together = LayerOptions(name="vectors", layers=names, kind="other", params=params, options=tuple(bound))
    profile = ProfileFacts(unit="nats", task="causal-lm", samples=32, layers=(*layers, together))
    return profile.model_copy(update={"measured": drawn_measurements(rng, profile, measured)})


def _options(rng: np.random.Generator, layer: LayerFacts, facts: CheckpointFacts, most: int) -> LayerOptions:
    tensor = facts.tensor(layer.weight)
    before, sensitivity = DensePlan(tensor.shape, tensor.dtype), rng.lognormal(-2, 1.2)
    found = [Option(label="kept", family=KEPT, bytes=before.bytes, loss=0.0)]
    menu = _menu(layer)
    for place in sorted(rng.choice(len(menu), min(most - 1, len(menu)), replace=False)):
        label, family, steps, share = menu[place]
        plan = planned(layer, before, steps)
        loss = sensitivity * share * rng.lognormal(0, 0.2)
        found.append(Option(label=label, family=family, steps=steps, bytes=plan.bytes, loss=loss, kind=plan.kind))
    return LayerOptions(
        name=layer.name,
        layers=(layer.name,),
        kind=layer.kind,
        shape=layer.shape,
        params=layer.size,
        options=tuple(found),
    )


def _menu(layer: LayerFacts) -> list[tuple[str, str, tuple[OptionStep, ...], float]]:
    """(label, family, steps, the share of the sensitivity that is lost)."""
    rounding = "weight_quantization" if layer.kind == "embedding" else "gptq"

    def rounded(bits: int, group: int) -> OptionStep:
        groups = {"granularity": "group", "group_size": group} if group else {"granularity": "channel"}
        return OptionStep(technique=rounding, settings={"bits": bits, **groups})

    casts = (OptionStep(technique="cast", settings={"dtype": "float16"}),)
    found = [("float16", "Quantization", casts, 1e-7)]
    for bits in (8, 6, 5, 4, 3, 2):
        for group in (0, 16, 64):
            share = 4.0**-bits * (1 + group / 128 if group else 3)
            found.append((f"{bits} bits, groups of {group}", "Quantization", (rounded(bits, group),), share))
    if layer.kind == "embedding":
        return found
    for sparsity in (0.3, 0.5, 0.6):
        pruned = OptionStep(technique="sparsegpt", settings={"sparsity": sparsity})
        found.append((f"{sparsity} removed", "Pruning", (pruned,), 0.02 * sparsity**2))
        both = (pruned, rounded(4, 64))
        found.append((f"{sparsity} removed, 4 bits", "Pruning", both, 0.02 * sparsity**2 + 4.0**-4))
    if layer.kind == "linear":
        for ratio in (0.3, 0.5, 0.7):
            factors = OptionStep(technique="low_rank", settings={"method": "whitened", "ratio": ratio})
            found.append((f"{ratio} of the parameters", "Low rank", (factors,), 0.2 * (1 - ratio)))
    return found


def drawn_measurements(
    rng: np.random.Generator,
    profile: ProfileFacts,
    count: int,
    scales: dict[str, float] | None = None,
    noise: float = 0.15,
    level: float = 1.3,
    exponent: float = 0.95,
    run: bool = False,
) -> tuple[Measurement, ...]:
    """Mixed recipes whose losses follow a power law of the scaled predictions, but for noise."""
    scales, found = scales or {"Quantization": 1.0, "Pruning": 1.6, "Low rank": 0.7}, []
    for number in range(count):
        lean = rng.uniform(0, 1)
        predicted: dict[str, float] = {}
        for layer in profile.layers:
            ordered = sorted(layer.options, key=lambda option: option.loss)
            option = ordered[min(int(rng.beta(1 + 6 * lean, 1 + 6 * (1 - lean)) * len(ordered)), len(ordered) - 1)]
            if option.family != KEPT:
                predicted[option.family] = predicted.get(option.family, 0.0) + option.loss
        whole = sum(scales.get(family, 1.0) * loss for family, loss in predicted.items())
        loss = level * whole**exponent * rng.lognormal(0, noise)
        name = f"run-{number}" if run else None
        found.append(Measurement(predicted=predicted, loss=loss, size_bytes=1, run_id=name))
    return tuple(found)
