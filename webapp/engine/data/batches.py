"""From a dataset's split to batches that a module takes, and from a module to the answers that are judged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.engine.architectures.transformers_family import padding_token
from webapp.engine.errors import DatasetUnfit, quoted
from webapp.engine.facts import BY_NUMBERS, PER_TOKEN, ArchitectureSpec
from webapp.engine.lazy import Tensor, nn, torch

from .datasets import Arrays, LabelledText, SampleSet, Text
from .images import Images
from .questions import LONGEST, Question, Questions, tokenized, tokens_of

CHUNK_TOKENS = 512  # of text for a language model, or the longest that it can take
SENTENCE_TOKENS = 128  # embeddings and text classification truncate here
SENTENCES = re.compile(r"(?<=[.!?])\s+")
SENTENCE_LIMIT = 500  # of a text that is embedded
SYNTHETIC = 8  # samples of a probe
SIDE = 64  # height and width of a synthetic image where any would do
IMAGES_AT_ONCE = 32
TEXTS_AT_ONCE = 32
SENTENCES_AT_ONCE = 25  # of a plain text
ARRAYS_AT_ONCE = 256
VALUES_AT_ONCE = 2**24  # of the inputs of one batch of arrays, where its size is not told
JUDGED_BY_ORIGINAL = ("embedding", "distance", *PER_TOKEN)  # a label is a text's, not a token's


@dataclass(frozen=True)
class Choices:
    """Of a question whose choices are a batch's rows: `ends` (B,) tokens, the last `lengths` (B,) the choice's own."""

    ends: list[int]
    lengths: list[int]
    characters: list[int]
    answer: int


@dataclass(frozen=True)
class Batch:
    """`inputs` by the name that the module's forward gives them ("x" for our own modules).

    `targets` are class numbers (B,) int64, masks of them (B, ...) int64, numbers (B, ...) float, or None.
    """

    inputs: dict[str, Tensor]
    targets: Tensor | None
    n: int
    choices: Choices | None = None

    def first(self, count: int) -> Batch:
        """Its first samples; padding that only the others needed is cut off."""
        return self.part(0, count)

    def part(self, start: int, end: int) -> Batch:
        """Its samples from `start` to before `end`, like `first`."""
        inputs = {name: tensor[start:end] for name, tensor in self.inputs.items()}
        mask = inputs.get("attention_mask")
        if mask is not None and mask.shape[0]:
            longest = int(mask.sum(-1).max())
            inputs = {name: tensor[:, :longest] for name, tensor in inputs.items()}
        targets = None if self.targets is None else self.targets[start:end]
        return Batch(inputs, targets, min(end, self.n) - start)

    def beginning(self, tokens: int) -> Batch:
        """Of its texts no more than so many tokens; without targets."""
        shape = self.inputs["input_ids"].shape
        inputs = {n: x[:, :tokens] if x.shape[:2] == shape else x for n, x in self.inputs.items()}
        return Batch(inputs, None, self.n)


def batches(
    samples: SampleSet,
    spec: ArchitectureSpec,
    tokenizer: Any,
    *,
    limit: int | None = None,
    batch_size: int | None = None,
) -> Iterator[Batch]:
    """The first `limit` samples of a split (chunks, for a language model). Raises DatasetUnfit with a sentence."""
    if isinstance(samples, Arrays):
        yield from _of_arrays(samples, spec, limit, batch_size or arrays_at_once(samples.x[0].numel()))
        return
    if isinstance(samples, Images):
        yield from ImageBatches(samples, spec, limit, batch_size or IMAGES_AT_ONCE)
        return
    if tokenizer is None:
        raise DatasetUnfit("The checkpoint came without a tokenizer, so text cannot be turned into its tokens.")
    if isinstance(samples, Questions):
        longest = min(LONGEST, int(spec.inputs.get("tokens") or LONGEST))
        yield from (_of_question(question, spec, tokenizer, longest) for question in samples.questions[:limit])
    elif spec.task == "causal-lm":
        yield from _chunks(samples, spec, tokenizer, limit, batch_size or 1)
    elif isinstance(samples, Text):
        sentences = sentences_of(samples, limit)
        if not sentences:
            raise DatasetUnfit("The text has no sentence of 6 to 60 words to embed; upload English-like prose.")
        yield from _padded(sentences, None, spec, tokenizer, batch_size or SENTENCES_AT_ONCE)
    else:
        labels = _targets(torch.tensor(samples.labels[:limit]), spec) if samples.labels is not None else None
        yield from _padded(samples.texts[:limit], labels, spec, tokenizer, batch_size or TEXTS_AT_ONCE)


def sentences_of(samples: Text, limit: int | None = None) -> list[str]:
    """The sentences of a plain text that are embedded or compared, each a sample."""
    sentences = [s.strip() for s in SENTENCES.split(samples.text) if 6 <= len(s.split()) <= 60]
    return sentences[: min(limit or SENTENCE_LIMIT, SENTENCE_LIMIT)]


def arrays_at_once(values: int) -> int:
    """How many samples of so many numbers are one batch."""
    return min(ARRAYS_AT_ONCE, max(1, VALUES_AT_ONCE // max(values, 1)))


class ImageBatches(Sequence[Batch]):
    """Images as batches, each decoded and prepared when it is asked for: all of them at once fill no memory."""

    def __init__(self, samples: Images, spec: ArchitectureSpec, limit: int | None, size: int = IMAGES_AT_ONCE) -> None:
        self.samples, self.spec, self.size = samples, spec, size
        self.n = len(samples) if limit is None else min(limit, len(samples))

    def __len__(self) -> int:
        return -(-self.n // self.size)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        x, y = self.samples.numbers(index * self.size, min(self.n, (index + 1) * self.size))
        return Batch(_inputs_of(x, self.spec), _targets(y, self.spec), len(x))


def _targets(y: Tensor | None, spec: ArchitectureSpec) -> Tensor | None:
    """What the task is judged by; None where it is the original alone."""
    if y is None or spec.task in JUDGED_BY_ORIGINAL:
        return None
    return y.float() if spec.task == "regression" and not y.is_floating_point() else y


def _of_question(question: Question, spec: ArchitectureSpec, tokenizer: Any, longest: int) -> Batch:
    """Its choices as rows, padded at the right."""
    rows = tokens_of(question, tokenizer, longest)
    ends = [len(tokens) for tokens, _ in rows]
    ids, mask = (
        torch.zeros(len(rows), max(ends), dtype=torch.int64),
        torch.zeros(len(rows), max(ends), dtype=torch.int64),
    )
    for row, (tokens, _) in enumerate(rows):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
    choices = Choices(ends, [length for _, length in rows], [len(c) for c in question.choices], question.answer)
    return Batch(_known({"input_ids": ids, "attention_mask": mask}, spec), None, 1, choices)


def _of_arrays(samples: Arrays, spec: ArchitectureSpec, limit: int | None, size: int) -> Iterator[Batch]:
    x, y = samples.x[:limit], _targets(samples.y[:limit] if samples.y is not None else None, spec)
    for start in range(0, len(x), size):
        part = x[start : start + size]
        yield Batch(_inputs_of(part, spec), y[start : start + size] if y is not None else None, len(part))


def _inputs_of(part: Tensor, spec: ArchitectureSpec) -> dict[str, Tensor]:
    """Arrays as the module takes them. Raises DatasetUnfit for tokens that it does not know."""
    if "vocab" not in spec.inputs:
        return {"pixel_values" if spec.family == "transformers" else "x": part.float()}
    ids, vocab = part.long(), int(spec.inputs["vocab"])
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab:
        raise DatasetUnfit(f"The samples are not tokens from 0 to {vocab - 1}, which {spec.title} takes.")
    return _named({"input_ids": ids}, spec)


def _known(inputs: dict[str, Tensor], spec: ArchitectureSpec) -> dict[str, Tensor]:
    """As they are, but that padding may be a token of no row of the embedding. Raises DatasetUnfit for another one."""
    ids, vocab = inputs["input_ids"], int(spec.inputs.get("vocab") or 0)
    if not vocab or not ids.numel() or int(ids.max()) < vocab:
        return inputs
    if "attention_mask" in inputs:
        ids = ids.masked_fill(inputs["attention_mask"] == 0, 0)
    if int(ids.max()) >= vocab:
        raise DatasetUnfit(
            f"The text holds the token {int(ids.max())}, and the embedding of {spec.title} has {vocab} rows: the "
            "tokenizer is another model's, or the text has tokens that were added to it and never trained."
        )
    return {**inputs, "input_ids": ids}


def _named(inputs: dict[str, Tensor], spec: ArchitectureSpec) -> dict[str, Tensor]:
    """Those that a program takes, in its order; all of them for others."""
    inputs = _known(inputs, spec)
    if "names" not in spec.inputs:
        return inputs
    missing = {"attention_mask": torch.ones_like, "token_type_ids": torch.zeros_like}
    return {
        name: inputs[name] if name in inputs else missing[name](inputs["input_ids"]) for name in spec.inputs["names"]
    }


def _chunks(
    samples: SampleSet, spec: ArchitectureSpec, tokenizer: Any, limit: int | None, size: int
) -> Iterator[Batch]:
    """Chunks that do not overlap, of the text as it comes; a remainder is left out unless it is all there is."""
    text = (
        samples.text
        if isinstance(samples, Text)
        else "\n".join(samples.texts)
        if isinstance(samples, LabelledText)
        else ""
    )
    ids = tokenized(tokenizer, text, add_special_tokens=False, verbose=False)["input_ids"]
    length = min(CHUNK_TOKENS, int(spec.inputs.get("tokens") or CHUNK_TOKENS), max(len(ids), 1))
    if len(ids) < 2:
        raise DatasetUnfit("The text is shorter than two tokens, so there is nothing to predict; upload more of it.")
    count = min(len(ids) // length, limit or len(ids))
    tokens = torch.tensor(ids[: count * length]).view(count, length)
    for start in range(0, count, size):
        part = tokens[start : start + size]
        inputs = {"input_ids": part, "attention_mask": torch.ones_like(part)}
        yield Batch(_named(inputs, spec), None, len(part))


def _padded(
    texts: list[str], labels: Tensor | None, spec: ArchitectureSpec, tokenizer: Any, size: int
) -> Iterator[Batch]:
    longest = min(SENTENCE_TOKENS, int(spec.inputs.get("tokens") or SENTENCE_TOKENS))
    pads = tokenizer.pad_token is not None and padding_token(spec) in (None, tokenizer.pad_token_id)
    size = size if pads else 1
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        encoded = tokenized(tokenizer, part, truncation=True, max_length=longest, return_tensors="pt", padding=pads)
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded}
        if empty := [text for text, mask in zip(part, encoded["attention_mask"], strict=True) if not mask.sum()]:
            raise DatasetUnfit(
                f"The tokenizer of {spec.title} makes no token of {quoted(empty[0])}; leave such texts out."
            )
        inputs = _named(inputs, spec)
        yield Batch(inputs, labels[start : start + size] if labels is not None else None, len(part))


def synthetic(spec: ArchitectureSpec, seed: int) -> Batch:
    """Seeded inputs of the architecture's own shape: normal values, or tokens drawn evenly from the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    if "vocab" in spec.inputs:
        length = int(spec.inputs.get("length") or min(64, int(spec.inputs["tokens"])))
        ids = torch.randint(0, int(spec.inputs["vocab"]), (2, length), generator=generator)
        return Batch(_named({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, spec), None, 2)
    shape = [SIDE if size is None else int(size) for size in spec.inputs["shape"]]
    name = "pixel_values" if spec.family == "transformers" else "x"
    return Batch({name: torch.randn(SYNTHETIC, *shape, generator=generator)}, None, SYNTHETIC)


def answers(module: nn.Module, spec: ArchitectureSpec, batch: Batch) -> list[Tensor]:
    """What of the model's answers is judged: all of them where they are numbers, else the first."""
    if spec.task in BY_NUMBERS:
        return every_output(module, spec, batch)
    return [outputs(module, spec, batch)]


def every_output(module: nn.Module, spec: ArchitectureSpec, batch: Batch) -> list[Tensor]:
    """All that the model answers with, float32 (B, ...) each; what stands for padding is zero."""
    if spec.family != "transformers":
        answer = module(*(batch.inputs[name] for name in spec.inputs.get("names", ("x",))))
        found = [answer] if isinstance(answer, Tensor) else list(answer)
        found = found if any(value.is_floating_point() for value in found) else [found[0].float()]
    else:
        extra = {"use_cache": False} if spec.told_task == "causal-lm" else {}
        found = [value for value in module(**batch.inputs, **extra).values() if isinstance(value, Tensor)]
    mask = batch.inputs.get("attention_mask")
    return [_unpadded(value.float(), mask) for value in found if value.is_floating_point()]


def _unpadded(value: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None or value.shape[:2] != mask.shape:
        return value
    return value.where(mask.bool().view(*mask.shape, *[1] * (value.dim() - 2)), 0.0)


def outputs(module: nn.Module, spec: ArchitectureSpec, batch: Batch) -> Tensor:
    """Float32 logits (B, C), (B, T, C) or (B, T, V), or whatever the model answers with first.

    Of an encoder without a head, and of any embedding (B, T, H), it is the mean of the token vectors (B, H).
    """
    if spec.family != "transformers":
        answer = module(*(batch.inputs[name] for name in spec.inputs.get("names", ("x",))))
        if not isinstance(answer, Tensor):  # of several the first of floats
            answer = next((value for value in answer if value.is_floating_point()), answer[0])
        return _pooled(answer.float(), batch) if spec.task == "embedding" else answer.float()
    extra = {"use_cache": False} if spec.told_task == "causal-lm" else {}
    found = module(**batch.inputs, **extra)
    if "logits" in found:
        logits: Tensor = found["logits"]
        return logits.float()
    if "last_hidden_state" in found:
        return _pooled(found["last_hidden_state"].float(), batch)
    first: Tensor = next(value for value in found.values() if isinstance(value, Tensor) and value.is_floating_point())
    return first.float()


def _pooled(hidden: Tensor, batch: Batch) -> Tensor:
    """(B, H): the mean of the vectors (B, T, H) of tokens that are not padding; flat where there are no tokens."""
    ids, mask = batch.inputs.get("input_ids"), batch.inputs.get("attention_mask")
    if hidden.dim() != 3 or (mask is None and ids is None):
        return torch.as_tensor(hidden.flatten(1))
    if mask is None:
        return torch.as_tensor(hidden.mean(1))
    weights = mask[..., None].float()
    return torch.as_tensor((hidden * weights).sum(1) / weights.sum(1).clamp(min=1))
