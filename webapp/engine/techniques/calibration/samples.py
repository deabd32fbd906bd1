"""The samples that techniques may see: the training split of a dataset, and none that evaluates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from webapp.engine.data.batches import SENTENCE_TOKENS, Batch, batches
from webapp.engine.data.datasets import SampleSet, Text
from webapp.engine.data.memory import BatchSizes, samples_of
from webapp.engine.data.questions import tokenized
from webapp.engine.errors import DatasetUnfit
from webapp.engine.facts import PER_TOKEN, ArchitectureSpec, DatasetFacts
from webapp.engine.lazy import torch

TEXTS = ("embedding", "text-classification", *PER_TOKEN)
SAMPLES = {"causal-lm": 32} | dict.fromkeys(TEXTS, 128)  # chunks of 512 tokens; texts of 128
IMAGES = 512
AT_ONCE = 64  # of what is no text
BATCH = {"causal-lm": 1} | dict.fromkeys(TEXTS, 16)


@dataclass(frozen=True)
class TechniqueData:
    """`samples` is what may be seen, as read; `spec` and `tokenizer` say how the model takes it."""

    samples: SampleSet
    spec: ArchitectureSpec
    tokenizer: Any

    def calibration(self, samples: int = 0) -> list[Batch]:
        """`samples` of them, spread evenly over the split (0: as many as suit the task). Raises DatasetUnfit.

        A language model gets chunks of 512 tokens; an encoder of plain text full chunks of 128 tokens.
        """
        count = samples or SAMPLES.get(self.spec.task or "", IMAGES)
        if isinstance(self.samples, Text) and self.spec.task in ("embedding", *PER_TOKEN):
            return list(self._chunks_of_text(self.samples, count))
        size = BATCH.get(self.spec.task or "")
        if isinstance(self.samples, Text):
            every = list(batches(self.samples, self.spec, self.tokenizer, batch_size=1))
            return [every[index] for index in _spread(len(every), count)]
        chosen = self.samples.only(_kept(len(self.samples), count))
        return list(batches(chosen, self.spec, self.tokenizer, batch_size=size or AT_ONCE))

    def _chunks_of_text(self, samples: Text, count: int) -> Iterator[Batch]:
        if self.tokenizer is None:
            raise DatasetUnfit("The checkpoint came without a tokenizer, so text cannot be turned into its tokens.")
        length = min(SENTENCE_TOKENS, int(self.spec.inputs.get("tokens") or SENTENCE_TOKENS))
        ids = tokenized(self.tokenizer, samples.text, add_special_tokens=False, verbose=False)["input_ids"]
        length = min(length, max(1, len(ids)))
        rows = torch.tensor(ids[: len(ids) // length * length]).view(-1, length)
        if not len(rows):
            raise DatasetUnfit("The text has no tokens to calibrate on; upload more of it.")
        rows = rows[torch.tensor(_spread(len(rows), count))]
        for part in torch.split(rows, BATCH["embedding"]):
            yield Batch({"input_ids": part, "attention_mask": torch.ones_like(part)}, None, len(part))


def calibrating(spec: ArchitectureSpec, dataset: DatasetFacts, samples: int) -> BatchSizes:
    """The size of what `calibration` gives of a dataset."""
    count = samples or SAMPLES.get(spec.task or "", IMAGES)
    found = samples_of(spec, dataset, count, training=True)
    rows = BATCH.get(spec.task or "", AT_ONCE) if found.rows > 1 else 1
    return found.of(rows, -(-count // rows))


def _spread(have: int, want: int) -> list[int]:
    """`want` positions among `have`, evenly apart."""
    return sorted({int(i * have / want) for i in range(want)}) if want < have else list(range(have))


def _kept(have: int, want: int) -> list[bool]:
    chosen = set(_spread(have, want))
    return [index in chosen for index in range(have)]
