"""What a module, and samples on their way through it, take of memory: in bytes of float32, from shapes alone.

What is foreseen is the most; the factors are measured ones, and tests/engine/run/test_footprint.py holds them against
what runs take.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from webapp.engine.architectures.streaming import LARGE_BYTES, WAITING_BYTES, WHOLE_BYTES
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, DatasetFacts, PassSize
from webapp.engine.weights import StoragePlan

from .batches import (
    CHUNK_TOKENS,
    IMAGES_AT_ONCE,
    SENTENCE_TOKENS,
    SIDE,
    SYNTHETIC,
    TEXTS_AT_ONCE,
    arrays_at_once,
)
from .questions import LONGEST

BLOCK = re.compile(r"^.*?\.\d+\.")
LIVE = 4.0  # times the inputs and outputs of the largest layer: what a forward pass holds at once
ANSWERS = 6.0  # times the answers to a batch: as floats, as log-probabilities, beside the original's
BACKWARD = 1.5  # times the outputs of all layers: kept, their gradients, and what the attention keeps
DECODING = 1.5  # times the floats of a tensor: read, decoded
UNPACKING = 4.5  # the same of one whose zeros lie behind a bitmask
USUAL_IMAGE = (3, 224, 224)
CHOICES, TOKENS_OF_QUESTION = 6, 512  # of a question that nobody looked at


@dataclass(frozen=True)
class BatchSizes:
    """Batches that a model is given: each `rows` texts of `tokens`, or inputs of `values` numbers."""

    rows: int
    tokens: int = 0
    values: int = 0
    batches: int = 1

    @property
    def bytes(self) -> int:
        """Of all batches: ids and masks of int64, or float32."""
        return self.batches * self.rows * (24 * self.tokens + 4 * self.values)

    def of(self, rows: int, batches: int | None = None) -> BatchSizes:
        return replace(self, rows=rows, batches=self.batches if batches is None else batches)


def samples_of(spec: ArchitectureSpec, dataset: DatasetFacts, most: int, training: bool = False) -> BatchSizes:
    """The batches of a dataset for this architecture, at most so many samples (chunks of text)."""
    longest = int(spec.inputs.get("tokens") or CHUNK_TOKENS)
    split = dataset.training if training and dataset.training is not None else dataset.evaluation
    many = "text" in dataset.kind and spec.task == "causal-lm"
    count = most if dataset.kind == "text" else min(most, split.n)
    if many:
        return BatchSizes(1, tokens=min(CHUNK_TOKENS, longest), batches=count)
    if dataset.kind == "multiple-choice":
        told = max((len(sample.get("choices", ())) for sample in dataset.samples), default=CHOICES)
        return BatchSizes(max(told, 2), tokens=min(LONGEST, longest, TOKENS_OF_QUESTION), batches=count)
    if "text" in dataset.kind:
        batches = math.ceil(count / TEXTS_AT_ONCE)
        return BatchSizes(TEXTS_AT_ONCE, tokens=min(SENTENCE_TOKENS, longest), batches=batches)
    if dataset.kind == "images":
        shape = spec.inputs.get("shape") or USUAL_IMAGE
        values = math.prod(USUAL_IMAGE[-1] if size is None else int(size) for size in shape)
        return BatchSizes(IMAGES_AT_ONCE, values=values)  # decoded batch by batch
    values = math.prod(dataset.sample_shape or (1,))
    rows = max(1, min(count, arrays_at_once(values)))
    if "vocab" in spec.inputs:
        return BatchSizes(rows, tokens=values, batches=math.ceil(count / rows))
    return BatchSizes(rows, values=values, batches=math.ceil(count / rows))


def probe_of(spec: ArchitectureSpec) -> BatchSizes:
    """What `synthetic` makes."""
    if "vocab" in spec.inputs:
        return BatchSizes(2, tokens=int(spec.inputs.get("length") or min(64, int(spec.inputs["tokens"]))))
    shape = (SIDE if size is None else int(size) for size in spec.inputs.get("shape") or ())
    return BatchSizes(SYNTHETIC, values=math.prod(shape))


@dataclass(frozen=True)
class ModelMemory:
    """A model as it would be in memory: `floats` of all its tensors, `block` of the largest of its row of blocks.

    `block` 0: it has no such row. `outside` is what lies outside of it, of which tables are read by rows while the
    model streams; `outside_whole` all of that. `reading` is what reading its largest tensor takes.
    """

    floats: int
    block: int
    outside: int
    outside_whole: int
    reading: int
    passing: PassSize | None

    @classmethod
    def of(cls, facts: CheckpointFacts, plans: Mapping[str, StoragePlan]) -> ModelMemory:
        sizes = {name: 4 * plan.params for name, plan in plans.items()}
        floats, spec = sum(sizes.values()), facts.architecture
        reading = max(
            (4 * plan.size * (UNPACKING if plan.pruned else DECODING) for plan in plans.values()), default=0.0
        )
        blocks: dict[str, int] = {}
        if spec is not None and spec.family == "transformers":
            for name, size in sizes.items():
                if found := BLOCK.match(name):
                    blocks[found[0]] = blocks.get(found[0], 0) + size
        vocabulary = int(spec.inputs.get("vocab") or 0) if spec is not None else 0
        apart = {name: size for name, size in sizes.items() if not BLOCK.match(name)}
        tables = {name for name in apart if plans[name].shape[:1] == (vocabulary,)}
        return cls(
            floats,
            max(blocks.values()) if len(blocks) > 1 else 0,
            sum(min(size, LARGE_BYTES) if name in tables else size for name, size in apart.items()),
            sum(apart.values()),
            int(reading),
            facts.pass_size,
        )

    @property
    def streams(self) -> bool:
        return self.block > 0 and self.floats > WHOLE_BYTES

    @property
    def module(self) -> int:
        """Of its module for answers, while tensors are put into it."""
        if self.streams:
            return self.outside + 2 * self.block + min(self.reading, 2 * self.block)
        return self.whole

    @property
    def whole(self) -> int:
        return self.floats + self.reading

    def passes(self, samples: BatchSizes) -> int:
        """Of the samples on their way through it, and of the answers to a batch; 0 where that is not known.

        Batches wait before a block of a model that streams, so that it is read once for many.
        """
        if (size := self.passing) is None:
            return 0
        share = _share(size, samples)
        live = samples.rows * share * (LIVE * size.largest_bytes + ANSWERS * size.answer_bytes)
        live += 8 * samples.rows * samples.tokens**2  # the mask of an attention
        waiting = samples.rows * share * size.given_bytes if self.streams else 0
        return int(live + min(samples.batches * waiting, WAITING_BYTES + waiting)) + samples.bytes

    def states(self, samples: BatchSizes) -> int:
        """Of what all samples give to one block of the row."""
        if (size := self.passing) is None:
            return 0
        given = size.given_bytes or size.largest_bytes
        return int(samples.batches * samples.rows * _share(size, samples) * given)

    def attention(self, samples: BatchSizes) -> int:
        """Of the attention maps of a batch, all layers'."""
        if (size := self.passing) is None:
            return 0
        return int(samples.rows * _share(size, samples) ** 2 * size.attention_bytes)

    def backward(self, samples: BatchSizes) -> int:
        """Of a pass forward and backward with one batch."""
        if (size := self.passing) is None:
            return 0
        return int(samples.rows * _share(size, samples) * BACKWARD * size.outputs_bytes)


def _share(size: PassSize, samples: BatchSizes) -> float:
    """How many times as large as the sample that was looked at."""
    if size.tokens and samples.tokens:
        return samples.tokens / size.tokens
    return max(1.0, samples.values / size.values) if size.values else 1.0
