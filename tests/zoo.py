"""Tiny models that many tests need and none changes: each is built, inspected, compressed and written once per run of
the tests, by whichever process asks first, and read by all.

FAMILIES are the models, FORMS the ways to store their weights: a test of a kind of plug-in goes over what it needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

ROOT = "PARE_ZOO"  # in the environment: the folder that all processes of this run share
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "cat", "dog", "sat", "ran", "on", "mat", "good", "bad", "."]
ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SIZES = {
    "bert": {**ENCODER, "vocab_size": 40, "max_position_embeddings": 24},
    "roberta": {**ENCODER, "vocab_size": 40, "max_position_embeddings": 24, "type_vocab_size": 1},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 24},
    "llama": {**ENCODER, "vocab_size": 40, "max_position_embeddings": 64, "num_key_value_heads": 1},
    "vit": {**ENCODER, "image_size": 8, "patch_size": 4, "num_channels": 3},
}


def build_tiny(class_name: str, model_type: str, **changes):
    """A model of that class in eval mode; `changes` go into its config."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **{**SIZES.get(model_type, {}), **changes})
    return getattr(transformers, class_name)(config).eval()


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of WORDS, as a Hugging Face folder has it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


def mlp():
    """64 → 48 → 10."""
    from torch import nn

    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


def deep_mlp():
    """A layer of 64 → 64 for each storage form, and 64 → 8 at the end."""
    from torch import nn

    return nn.Sequential(*(part for _ in FORMS for part in (nn.Linear(64, 64), nn.ReLU())), nn.Linear(64, 8))


def cnn():
    """Grey images of 8 × 8 to ten classes."""
    from torch import nn

    convolutions = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10))


FAMILIES: dict[str, Callable[[], Any]] = {
    "mlp": mlp,
    "deep_mlp": deep_mlp,
    "cnn": cnn,
    "bert": lambda: build_tiny("BertForSequenceClassification", "bert"),
    "gpt2": lambda: build_tiny("GPT2LMHeadModel", "gpt2"),
    "llama": lambda: build_tiny("LlamaForCausalLM", "llama", hidden_size=64, intermediate_size=96),
    "vit": lambda: build_tiny("ViTForImageClassification", "vit"),
}


def quantized(bits: int, **more):
    return "weight_quantization", {"bits": bits, "granularity": "group", "group_size": 32, **more}


Step = tuple[Any, ...]  # technique, settings, which layers where not all, overrides where there are any
FORMS: dict[str, list[Step]] = {  # how a weight is stored -> the steps that make it so
    "dense": [],
    "8 bits": [quantized(8, granularity="channel")],
    "4 bits": [quantized(4)],
    "4 bits, zero points": [quantized(4, symmetric=False)],
    "3 bits": [quantized(3)],
    "2 bits": [quantized(2)],
    "NF4": [quantized(4, numbers="normal")],
    "codebook": [quantized(3, numbers="fitted")],
    "3 bits, rank 2": [quantized(3, compensation_rank=2)],
    "low rank": [("low_rank", {"ratio": 0.5})],
    "low rank, 8 bits": [("low_rank", {"ratio": 0.5}), quantized(8)],
    "bfloat16": [("cast", {"dtype": "bfloat16"})],
    "pruned": [("magnitude_pruning", {"sparsity": 0.5})],
    "pruned, 4 bits": [("magnitude_pruning", {"sparsity": 0.5}), quantized(4)],
    "Q4_0": [("ggml_quantization", {"type": "Q4_0", "pure": True})],
    "GPTQ": [("gptq", {"bits": 4, "granularity": "group", "group_size": 32})],
}


class Given:
    """Calibration batches, as a run's data gives them."""

    def __init__(self, *batches):
        self.batches = list(batches)

    def calibration(self, samples=0):
        return self.batches[: samples or None]


def seeded_batches(spec, count: int = 3) -> Given:
    """Seeded inputs of an architecture's own shape, in place of a dataset."""
    from webapp.engine.data.batches import synthetic

    return Given(*(synthetic(spec, seed) for seed in range(count)))


def apply_steps(checkpoint, *steps: Step, data=None, seed: int = 0, measured=None):
    """Steps applied to an inspected checkpoint as a run does it: the model, and the outcomes of the last."""
    from webapp.engine.architectures.reshape import describe_model
    from webapp.engine.progress import Silent
    from webapp.engine.recipe import Recipe
    from webapp.engine.run.predict import prepare_step
    from webapp.engine.techniques import Context
    from webapp.engine.weights.model import Model

    folder, facts = checkpoint
    measured = {} if measured is None else measured
    model, outcomes = Model.of_checkpoint(folder, facts), []
    for position, (name, values, *more) in enumerate(steps):
        now = describe_model(model, facts)
        patterns = dict(zip(("layers", "overrides"), more, strict=False))
        recipe = Recipe.read({"steps": [{"technique": name, "settings": values, **patterns}]})
        step = prepare_step(now, recipe.steps[0], position)
        context = Context(step.layers, seed, Silent(), data, facts=now, files=folder, importance=measured)
        outcomes = step.applied(model, context)
    return model, outcomes


def once(name: str, build: Callable[[Path], object]) -> Path:
    """The folder of that name, which `build` was given empty to fill, once in this run. Nobody changes it after."""
    folder = Path(os.environ[ROOT]) / name.replace("/", "_")
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_name(f"{folder.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            build(unfinished)
            unfinished.rename(folder)
    return folder


def inspected(name: str, upload: Callable[[Path], Path]):
    """A checkpoint that `upload` writes into a folder and returns: the folder of its files, and its facts."""
    from webapp.engine.facts import CheckpointFacts
    from webapp.engine.importers.inspect import inspect_checkpoint
    from webapp.engine.progress import Silent

    def build(folder: Path) -> None:
        path = upload(folder)
        (folder / "inspected").mkdir()
        facts = inspect_checkpoint(path, path.name, folder / "inspected", Silent())
        (folder / "facts.json").write_text(facts.model_dump_json())

    folder = once(name, build)
    return folder / "inspected", CheckpointFacts.model_validate_json((folder / "facts.json").read_bytes())


def checkpoint(family: str, dtype: str = "float32"):
    """One of FAMILIES, inspected: the folder of its normalised files, and its facts with what of it can be cut."""
    from webapp.engine.techniques.surgery import with_structure

    def upload(folder: Path) -> Path:
        import torch

        torch.manual_seed(0)
        module = FAMILIES[family]().to(getattr(torch, dtype))
        if family not in SIZES:
            torch.save(module.state_dict(), folder / f"{family}.pt")
            return folder / f"{family}.pt"
        module.save_pretrained(folder / "saved")
        if "vocab_size" in SIZES[family]:
            write_tokenizer(folder / "saved")
        with zipfile.ZipFile(folder / f"{family}.zip", "w") as archive:
            for path in sorted((folder / "saved").iterdir()):
                archive.write(path, f"model/{path.name}")
        return folder / f"{family}.zip"

    folder, facts = inspected(f"{family} {dtype}", upload)
    return folder, with_structure(facts)


def model(family: str, form: str = "dense", dtype: str = "float32"):
    """One of FAMILIES in one of FORMS, read from a file of Pare's."""
    from webapp.engine.weights.artifact import read_model, write_model

    def build(folder: Path) -> None:
        given = checkpoint(family, dtype)
        made, _ = apply_steps(given, *FORMS[form], data=seeded_batches(given[1].architecture))
        write_model(made, folder / "model.safetensors")

    return read_model(once(f"{family} {dtype}, {form}", build) / "model.safetensors")


def written(exporter: str, family: str, form: str = "dense", dtype: str = "float32"):
    """What an exporter made of that model: its folder, and what it told of it."""
    from webapp.engine.exporters import exporters

    def build(folder: Path) -> None:
        (folder / "out").mkdir()
        told = exporters()[exporter].write(model(family, form, dtype), folder / "out")
        (folder / "told.json").write_text(json.dumps(dict(told)))

    folder = once(f"{family} {dtype}, {form}, {exporter}", build)
    return folder / "out", json.loads((folder / "told.json").read_text())


def uncached():
    """For torch's tracer: what it keeps of operators costs small modules more than it saves; graphs are the same."""
    import torch

    return torch._dynamo.config.patch(fake_tensor_cache_enabled=False)


def traced(model, keep: bool = False):
    """As the ONNX exporter's own: a graph whose weights are open depends on the module alone, and is traced once.

    A file may tell the module's layers in another order, and only a language model has something to keep.
    """
    import onnx
    import onnx_ir
    import torch

    from webapp.engine.architectures.build import skeleton_of
    from webapp.engine.exporters.onnx import trace

    keep = keep and model.architecture.told_task == "causal-lm"
    skeleton = skeleton_of(replace(model, activations={}))
    parts = [(name, type(part).__name__, part.extra_repr()) for name, part in skeleton.named_modules()]
    shapes = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in skeleton.state_dict().items()]
    spec = json.dumps(model.architecture.model_dump(mode="json"), sort_keys=True)
    told = [spec, sorted(parts), sorted(shapes), sorted(model.tied.items()), keep]
    key = hashlib.sha256(repr(told).encode()).hexdigest()

    def build(folder: Path) -> None:
        with torch.random.fork_rng(), uncached():
            onnx_ir.save(trace.traced(model, keep), folder / "graph.onnx")

    return onnx_ir.serde.deserialize_model(onnx.load(once(f"graph {key}", build) / "graph.onnx"))
