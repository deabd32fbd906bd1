"""Every architecture that the transformers library has itself, by its config.json. Remote code is never run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from webapp.engine.errors import CheckpointRefused, quoted, some
from webapp.engine.facts import ArchitectureSpec, Task, TensorFacts
from webapp.engine.lazy import nn, torch

from .base import Architecture

TASKS: tuple[tuple[str, Task], ...] = (  # the end of a class name -> what it does
    ("ForCausalLM", "causal-lm"),
    ("LMHeadModel", "causal-lm"),
    ("ForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForMaskedLM", "masked-lm"),
    ("ForImageClassification", "classification"),
    ("ForSemanticSegmentation", "segmentation"),
)
NO_PADDING = -1  # no token has this id: a decoder that is told it takes the last place of each row
NO_POOLING = "pare_without_pooling"  # in a spec's config: the checkpoint was saved without the pooling layer
LARGEST = (  # numbers in a config.json by their names, beyond what any model there is has
    (re.compile(r"labels?$"), 100_000),
    (re.compile(r"layers?$|depths?$|blocks$|block_count$|stages$|stacks$|loops$|groups$|experts$"), 5_000),
    (re.compile(r"heads$|head_count\w*$|channels$|dims?$|sizes?$|(embedding|forward|key|value)_length$"), 50_000_000),
    (re.compile(r"positions?(_embeddings)?$|n_ctx$|context_length$"), 20_000_000),
)
LONGEST_LIST = 10_000  # numbers or lists in a config.json
POSITIONS_AFTER_PADDING = (  # the first two of their positions are of no token
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "luke",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")


class Transformers(Architecture):
    family: ClassVar[str] = "transformers"
    priority: ClassVar[int] = 10

    @classmethod
    def recognise(cls, tensors: Mapping[str, TensorFacts], config: dict[str, Any] | None) -> ArchitectureSpec | None:
        """None without a config.json of a model type that transformers has; `why_not` says which."""
        if not config or why_not(config):
            return None
        spec = cls.describe(config, tensors)
        compare(spec, cls.skeleton(spec), tensors)
        return spec

    @classmethod
    def describe(cls, config: dict[str, Any], names: Iterable[str]) -> ArchitectureSpec:
        """The spec by the config, before the tensors were looked at; of `names` only whether there is a pooler."""
        parsed, kind = parsed_config(config), _class(config)
        pooling = "add_pooling_layer" in inspect.signature(kind).parameters  # an embedding needs none
        if pooling and not any("pooler." in name for name in names):
            config = {**config, NO_POOLING: True}
        return ArchitectureSpec(
            family=cls.family,
            title=kind.__name__,
            task=_task(kind, parsed),
            config=config,
            inputs=_inputs(parsed),
        )

    @classmethod
    def skeleton(cls, spec: ArchitectureSpec) -> nn.Module:
        kind: Any = _class(spec.config)
        with torch.device("meta"):
            options = {"add_pooling_layer": False} if spec.config.get(NO_POOLING) else {}
            module = kind(parsed_config(spec.config), **options)
        _fill_buffers(module)
        take_batches(module, spec)
        result: nn.Module = module.eval()
        return result

    @classmethod
    def ties(cls, module: nn.Module) -> dict[str, str]:
        return tied_by(module)

    @classmethod
    def tokenizer(cls, spec: ArchitectureSpec, folder: Path) -> Any:
        """The fast tokenizer in the folder, or None where there is none. Reads files only, runs no code of theirs."""
        if not any((folder / name).exists() for name in TOKENIZER_FILES):
            return None
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_fast=True)


def invalid_value() -> tuple[type[Exception], ...]:
    """What the library raises for values that it did not expect."""
    from huggingface_hub.errors import StrictDataclassError

    common = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError)
    return *common, AssertionError, ImportError, StrictDataclassError


def why_not(config: dict[str, Any]) -> str | None:
    """A sentence on why transformers has no module for this config.json; None where it has one."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return "its config.json has no model_type, so the architecture is not known"
    from transformers import CONFIG_MAPPING  # takes seconds

    if model_type not in CONFIG_MAPPING:
        return f"transformers itself has no model type {quoted(model_type)}"
    try:
        parsed = parsed_config(config)
        if getattr(parsed, "is_encoder_decoder", False):
            return f"{model_type} is an encoder-decoder, which Pare does not run yet"
        with torch.device("meta"):
            _class(config)(parsed)
    except CheckpointRefused as error:
        return error.message
    except invalid_value() as error:
        return f"its config.json is not a valid {model_type} configuration{_because(error)}"
    return None


def _because(error: Exception) -> str:
    """What the library says of a value, for the end of a sentence; what Python says of it is not worth repeating."""
    from huggingface_hub.errors import StrictDataclassError

    if not isinstance(error, ValueError | StrictDataclassError) or not str(error).strip():
        return ""
    said = str(error).strip().splitlines()[-1 if isinstance(error, StrictDataclassError) else 0]
    return f": {re.sub(r'^[A-Za-z]+Error: ', '', said.strip())[:300]}"


def beyond_any(config: Mapping[str, Any]) -> str | None:
    """What in a configuration is larger than any model has it, in words: building a module would take hours for it."""
    parts = [(str(key).lower(), value) for key, value in config.items()]
    for key, value in parts:  # grows as it goes
        if isinstance(value, Mapping):
            labels = key in ("id2label", "label2id")
            if labels and len(value) > LARGEST[0][1]:
                return f"{len(value)} entries in {key}"
            parts += [] if labels else [(str(inner).lower(), of_it) for inner, of_it in value.items()]
        elif isinstance(value, list):
            if len(value) > LONGEST_LIST and not isinstance(value[0], str):
                return f"{len(value)} values in {quoted(key)}"
            parts += [(key, of_it) for of_it in value if not isinstance(of_it, str)]
        elif type(value) is int and value > next((most for name, most in LARGEST if name.search(key)), value):
            return f"{value if value < 2**63 else 'more than 2^63'} as {quoted(key)}"
    return None


def padding_token(spec: ArchitectureSpec) -> int | None:
    """Of a decoder with a head for whole texts the token that pads: it answers at the last place that is another one.

    NO_PADDING where its config names none: then its texts come without padding. None for those that read their mask.
    """
    if spec.family != Transformers.family or spec.task != "text-classification" or "model_type" not in spec.config:
        return None
    kind = _class(spec.config)
    if not _pools_at_the_last_token(kind):
        return None
    token = parsed_config(spec.config).get_text_config().pad_token_id
    return NO_PADDING if token is None else int(token)


def take_batches(module: Any, spec: ArchitectureSpec) -> None:
    """Has a decoder whose config names no padding token answer several rows without padding, which it refuses else."""
    if padding_token(spec) == NO_PADDING:
        module.config.get_text_config().pad_token_id = NO_PADDING


def _pools_at_the_last_token(kind: Any) -> bool:
    return "pad_token_id" in inspect.getsource(inspect.unwrap(kind.forward))


def parsed_config(config: dict[str, Any]) -> Any:
    """The library's configuration object. Raises whatever the library raises for values it cannot take."""
    from transformers import AutoConfig

    own = {key: value for key, value in config.items() if key not in ("auto_map", "model_type", NO_POOLING)}
    return AutoConfig.for_model(config["model_type"], **own)


def _class(config: dict[str, Any]) -> type[nn.Module]:
    """The class that config.json names, or the bare model of the type. Raises CheckpointRefused if there is neither."""
    import transformers

    names = config.get("architectures") or [None]
    name = names[0] if isinstance(names, list) else None
    if isinstance(name, str):
        found = getattr(transformers, name, None)
        abstract = name.endswith("PreTrainedModel")  # what the others come from: it computes nothing
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) and not abstract:
            return found
        raise CheckpointRefused(f"transformers itself has no class {quoted(name)}")
    model_type = type(parsed_config(config))
    if model_type not in transformers.AutoModel._model_mapping:
        raise CheckpointRefused(f"transformers has no model for {quoted(config['model_type'])}")
    bare: type[nn.Module] = transformers.AutoModel._model_mapping[model_type]
    return bare


def _task(kind: type[nn.Module], parsed: Any) -> Task | None:
    for ending, task in TASKS:
        if kind.__name__.endswith(ending):
            regression = getattr(parsed, "problem_type", None) == "regression" or getattr(parsed, "num_labels", 2) == 1
            if regression and task in ("classification", "text-classification"):
                return "regression"
            return None if regression and task == "token-classification" else task
    bare = kind.__name__.endswith("Model") and hasattr(parsed, "vocab_size")
    return "embedding" if bare and not getattr(parsed, "is_decoder", False) else None


def _inputs(parsed: Any) -> dict[str, Any]:
    if hasattr(parsed, "image_size") and hasattr(parsed, "num_channels"):
        size = parsed.image_size
        sides = list(size) if isinstance(size, list | tuple) else [size, size]
        return {"shape": [parsed.num_channels, *sides]}
    if not hasattr(parsed, "vocab_size"):
        return {"shape": [getattr(parsed, "num_channels", 3), None, None]} if hasattr(parsed, "num_channels") else {}
    most = getattr(parsed, "max_position_embeddings", None)
    tokens = most if isinstance(most, int) and most > 0 else 512  # XLNet's -1: any number
    if parsed.model_type in POSITIONS_AFTER_PADDING:
        tokens -= 2
    return {"tokens": tokens, "vocab": parsed.vocab_size}


def _fill_buffers(module: Any) -> None:
    """Makes the non-persistent buffers (rotary frequencies, position ids) real, as `from_pretrained` does.

    Everything that a checkpoint holds is marked as filled, so that the library's own initialisation, which knows how
    each buffer is computed, passes over it and computes only the buffers.
    """
    for value in module.state_dict(keep_vars=True).values():
        value._is_hf_initialized = True
    for name, buffer in module.named_non_persistent_buffers():
        path, _, last = name.rpartition(".")
        module.get_submodule(path).register_buffer(last, torch.empty_like(buffer, device="cpu"), persistent=False)
    module.initialize_weights()


def tied_by(module: Any) -> dict[str, str]:
    """Alias -> source, as the library ties them for this config."""
    return dict(module.get_expanded_tied_weights_keys(all_submodels=True))


def ignorable(module: Any, name: str) -> bool:
    """Whether the library itself passes over this name in a checkpoint: buffers that older versions saved."""
    patterns = [*(module._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$"]
    patterns += [r"\.attn\.(masked_)?bias$"] if module.config.model_type == "gpt2" else []
    return any(re.search(pattern, name) for pattern in patterns)


def compare(spec: ArchitectureSpec, module: nn.Module, tensors: Mapping[str, TensorFacts]) -> None:
    """Raises CheckpointRefused that names a missing or misshapen tensor. Unexpected ones are not its business."""
    tied = tied_by(module)
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    missing = [name for name in expected if name not in tensors and tied.get(name) not in tensors]
    for name, shape in expected.items():
        if name in tensors and tensors[name].shape != shape:
            raise CheckpointRefused(
                f"{name} has shape {list(tensors[name].shape)}; {spec.title} by its config.json expects {list(shape)}"
            )
    if missing:
        raise CheckpointRefused(f"the weights lack {some(missing)}, which {spec.title} needs")
