"""GGUF: the file that llama.cpp runs, for LLaMA-type language models.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The files beside this one import gguf, so they are imported
where they are needed, in the child process. The names of tensors are in importers/gguf.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from webapp.engine.data.batches import CHUNK_TOKENS
from webapp.engine.data.memory import BatchSizes, ModelMemory
from webapp.engine.errors import ExportUnfit, some
from webapp.engine.exporters.base import Capabilities, Exporter, Loaded, NativeRuntime
from webapp.engine.facts import ArchitectureSpec, LayerFacts
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math.ggml import missing
from webapp.engine.weights import Dense, Encoded, GgmlPlan, QuantizedPlan, StoragePlan
from webapp.engine.weights.held import Weights
from webapp.engine.weights.model import Model
from webapp.engine.weights.safetensors import LazyTensor

from .blocks import BLOCK, ZERO_POINTS, Choice

MOST_NATIVE_BYTES = 2_000_000_000  # of a file that llama.cpp runs: it packs weights anew in memory, beside those mapped
NATIVE_BYTES = 100_000_000  # llama.cpp itself, its graph and its threads
REPACKED = 0.27  # of the floats: 8.5 bits of 32


class GgufExporter(Exporter):
    name = "gguf"
    title = "GGUF"
    summary = (
        "Runs in llama.cpp with its tokenizer and chat template; llama.cpp's own blocks and integers of up to 8 bits "
        "stay as they are, floats become half precision; zeros are stored like other values."
    )
    file = "model.gguf"
    can = Capabilities(
        holds="model",
        loads_in="llama.cpp",
        integers="its own blocks as they are; others of 5 to 8 bits as Q8_0, up to 4 as Q4_0 or Q4_1",
        factors=False,
        original=False,
        rounds=True,
        timed=False,  # against what: the original is no file of llama.cpp's
        served_by="llama.cpp",
        libraries=("gguf",),
    )

    def lacks(self, spec: ArchitectureSpec) -> str | None:
        from webapp.engine.importers.gguf.names import why_not

        if spec.family != "transformers" or spec.told_task != "causal-lm":
            return f"llama.cpp runs language models; this is a {spec.title}."
        return why_not(spec.config)

    def holds(self, layer: LayerFacts, plan: StoragePlan) -> bool:
        if isinstance(plan, GgmlPlan):
            return len(plan.shape) == 2 and not plan.layout.transposed
        if not isinstance(plan, QuantizedPlan):
            return super().holds(layer, plan)
        blocks = plan.columns % BLOCK == 0 and plan.group % BLOCK == 0 and len(plan.shape) == 2
        integers = not plan.codebook and (plan.symmetric or plan.bits <= ZERO_POINTS)
        return blocks and integers and super().holds(layer, plan)

    def beside(self, model: Model) -> int | None:
        """Its metadata, vocabulary and list of tensors, whose length no kind of them changes."""
        import tempfile

        from .blocks import aligned, plainly

        assert model.architecture is not None
        try:
            weights = _weights(model)
        except ExportUnfit:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self.file
            writer, factors, _ = _begun(path, model, weights, {name: plainly(weights[name]) for name in weights})
            writer.close()
            return aligned(path.stat().st_size) + (0 if factors is None else aligned(4 * factors.plan.size))

    def stored(self, plan: StoragePlan) -> int:
        from .blocks import aligned, expected_bytes

        return aligned(expected_bytes(plan))

    def write(self, model: Model, folder: Path) -> Mapping[str, Any]:
        from webapp.engine.architectures.transformers_family import parsed_config
        from webapp.engine.importers.gguf.names import ROPE_FREQS, interleaved, permuted_heads

        from .blocks import choose, packed
        from .metadata import WITHOUT

        assert model.architecture is not None
        config, weights = parsed_config(model.architecture.config), _weights(model)
        choices = {name: choose(weights[name]) for name in weights}
        writer, factors, notes = _begun(folder / self.file, model, weights, choices)
        if factors is not None:
            weights[ROPE_FREQS], choices[ROPE_FREQS] = factors, choose(factors)
        kinds: Counter[str] = Counter()
        for name, choice in choices.items():
            kinds[choice.kind] += choice.bytes(weights.plan(name).shape)
        for name, choice in choices.items():
            heads, rows = permuted_heads(name, config), packed(weights[name], choice)
            writer.write_tensor_data((interleaved(rows, heads) if heads else rows).numpy())
        writer.close()
        reads_text = not WITHOUT & set(notes)
        notes += _lost(choices) + _elsewhere(model, config)
        size = (folder / self.file).stat().st_size
        return {"size_bytes": size, "kinds": dict(kinds), "reads_text": reads_text, "notes": notes}

    def load(self, folder: Path, spec: ArchitectureSpec | None) -> Loaded:
        from importlib.metadata import version

        from .metadata import read_module

        path, runtime = folder / self.file, f"its values run by torch {torch.__version__}, float32"
        large = path.stat().st_size > MOST_NATIVE_BYTES
        why_not = f", as files above {MOST_NATIVE_BYTES / 1e9:.0f} GB are not" if large else ""

        def native() -> NativeRuntime:
            from .llama_cpp import LlamaCpp

            return LlamaCpp(path)

        there = missing() is None and not large
        runtime += "" if there else f"; llama.cpp itself was not run{why_not}"
        by = f"gguf-py {version('gguf')}, a process of its own"
        return Loaded(read_module(path), by, runtime, native=native if there else None)

    def rounded(self, model: Model) -> Model:
        from .blocks import choose, rounded

        weights = _weights(model)

        def as_written(name: str) -> Tensor:
            return rounded(encoded := weights[name], choose(encoded)).decode()

        lazily = {
            name: Dense(LazyTensor(weights.plan(name).shape, torch.float32, partial(as_written, name)))
            for name in weights
        }
        return replace(model, weights=Weights(lazily), activations={})

    def loading(self, model: ModelMemory) -> int:
        if not model.passing:
            return 0
        one = BatchSizes(1, tokens=CHUNK_TOKENS)
        if missing():
            return model.module
        packed = min(int(REPACKED * model.floats), MOST_NATIVE_BYTES)
        return model.module + NATIVE_BYTES + packed + model.passes(one)

    def arithmetic(self, written: Mapping[str, Any]) -> str:
        told = ", ".join(f"{size / 1e6:.1f} MB in {kind}" for kind, size in written["kinds"].items())
        return (
            f"{told}. llama.cpp multiplies blocks as integers, rounding what they are multiplied with to 8 "
            "bits; pruned weights take the room of others, and save no time."
        )


def _begun(
    path: Path, model: Model, weights: Weights, choices: Mapping[str, Choice]
) -> tuple[Any, Encoded | None, list[str]]:
    """(the writer, which has written all but the tensors' data; one more tensor, that comes last; notes)."""
    from gguf import GGMLQuantizationType, GGUFWriter

    from webapp.engine.architectures.transformers_family import parsed_config
    from webapp.engine.importers.gguf.model import rope_factors
    from webapp.engine.importers.gguf.names import ARCHITECTURES, ROPE_FREQS, their_name

    from .metadata import write_hyperparameters, write_vocabulary

    assert model.architecture is not None
    config = parsed_config(model.architecture.config)
    kinds: Counter[str] = Counter()
    for name, choice in choices.items():
        kinds[choice.kind] += choice.bytes(weights.plan(name).shape)
    writer = GGUFWriter(None, ARCHITECTURES[config.model_type])
    mostly = max((kind for kind in kinds if kind != "F32"), key=lambda kind: kinds[kind])
    write_hyperparameters(writer, config, model.architecture.title, mostly)
    notes = write_vocabulary(writer, model.files, config.vocab_size)
    found = rope_factors(config)
    factors = None if found is None else Dense(found)
    listed = [(str(their_name(name)), weights.plan(name).shape, choice) for name, choice in choices.items()]
    listed += [] if factors is None else [(ROPE_FREQS, factors.shape, Choice("F32"))]
    for theirs, shape, choice in listed:
        kind = GGMLQuantizationType[choice.kind]
        writer.add_tensor_info(theirs, shape, torch.empty(0).numpy().dtype, choice.bytes(shape), raw_dtype=kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer, factors, notes


def _weights(model: Model) -> Weights:
    """The weights to write, each tied one once, under the embedding's name. Raises ExportUnfit."""
    from webapp.engine.importers.gguf.names import their_name
    from webapp.engine.techniques.surgery.transformers_blocks import fits

    plans = {name: model.plan(name) for name in model.names}
    shapes = {name: plan.shape for name, plan in plans.items()}
    if model.tied:
        plans.pop("lm_head.weight", None)
    factored = [name for name, plan in plans.items() if plan.factors]
    if factored:
        raise ExportUnfit(
            f"{some(factored, 1)} are low-rank factors, for which "
            "llama.cpp has no form. Leave the low-rank step out, or GGUF."
        )
    strange = [name for name in plans if their_name(name) is None]
    if strange:
        raise ExportUnfit(f"{strange[0]} is a tensor that llama.cpp has no name for.")
    assert model.architecture is not None
    if not fits(model.architecture, shapes):
        raise ExportUnfit("Its layers are not all equally wide, and a GGUF file has one width for all of them.")
    return model.weights.renamed({name: model.tied.get(name, name) for name in plans})


def _lost(choices: Mapping[str, Any]) -> list[str]:
    """Why weights were not kept as they are stored, each reason once."""
    reasons: Counter[str] = Counter(choice.note for choice in choices.values() if choice.note)
    example = {choices[name].note: name for name in reversed(list(choices))}
    return [
        f"{example[reason]}{f' and {count - 1} more' if count > 1 else ''}: {reason}."
        for reason, count in reasons.items()
    ]


def _elsewhere(model: Model, config: Any) -> list[str]:
    notes = []
    if model.activations:
        notes.append("The rounding of the layers' inputs is not part of the file; llama.cpp has its own.")
    if window := getattr(config, "sliding_window", None):
        notes.append(f"Its attention looks {window} tokens back; llama.cpp looks at all of them.")
    return notes
