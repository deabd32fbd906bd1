"""The samples that train and those that validate: drawn by the seed, read when their turn comes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from webapp.engine.data.batches import SENTENCES, Batch, batches
from webapp.engine.data.datasets import Arrays, LabelledText, Text
from webapp.engine.data.images import Images
from webapp.engine.data.questions import Questions
from webapp.engine.errors import DatasetUnfit
from webapp.engine.lazy import Tensor, torch
from webapp.engine.techniques.calibration.samples import TechniqueData

MOST_VALIDATION = {"causal-lm": 64}  # chunks of 512 tokens
MOST_SAMPLES = 1000


@dataclass(frozen=True)
class TrainingSamples:
    """Sample numbers of both parts, (n,) int64 each. No sample is in both; `validation` may be empty."""

    source: Source
    training: Tensor
    validation: Tensor
    seed: int

    @classmethod
    def of(cls, data: TechniqueData, validation: float, seed: int) -> TrainingSamples:
        """Raises DatasetUnfit where there is nothing to train on."""
        source = Source.of(data)
        count = len(source)
        if not count:
            raise DatasetUnfit("The dataset's training split has no samples to train on.")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        most = MOST_VALIDATION.get(data.spec.task or "", MOST_SAMPLES)
        held = min(max(1, round(validation * count)), most) if validation and count > 1 else 0
        return cls(source, order[held:], order[:held], seed)

    def steps_per_epoch(self, size: int) -> int:
        return len(parts(self.training, size))

    def steps(self, size: int, start: int, total: int) -> Iterator[Tensor]:
        """Sample numbers of the steps `start` to `total`, at most `size` + 1 each; every epoch in another order."""
        step, each = start, self.steps_per_epoch(size)
        while step < total:
            epoch, behind = divmod(step, each)
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch + 1)
            order = self.training[torch.randperm(len(self.training), generator=generator)]
            for numbers in parts(order, size)[behind : behind + total - step]:
                yield numbers
                step += 1


@dataclass(frozen=True)
class Source:
    """Any sample by its number. A language model's samples are chunks of tokens, an encoder's of plain text sentences.

    `tokens` (chunks, length) int32 of a language model, else None.
    """

    data: TechniqueData
    samples: Arrays | LabelledText | Images
    tokens: Tensor | None

    @classmethod
    def of(cls, data: TechniqueData) -> Source:
        spec, samples = data.spec, data.samples
        if spec.task == "causal-lm":
            found = [
                batch.inputs["input_ids"].int() for batch in batches(samples, spec, data.tokenizer, batch_size=1024)
            ]
            return cls(
                data, LabelledText([], None), torch.cat(found) if found else torch.empty(0, 1, dtype=torch.int32)
            )
        if isinstance(samples, Text):
            sentences = [found.strip() for found in SENTENCES.split(samples.text)]
            samples = LabelledText([found for found in sentences if len(found.split()) > 2], None)
        assert not isinstance(samples, Questions)  # technique data has them as text
        return cls(data, samples, None)

    def __len__(self) -> int:
        if self.tokens is not None:
            return len(self.tokens)
        return len(self.samples)

    def batches(self, numbers: Tensor) -> Iterator[Batch]:
        """One batch of these samples, or several where the tokenizer cannot pad. Raises DatasetUnfit."""
        if self.tokens is not None:
            chosen = self.tokens[numbers].long()
            yield Batch({"input_ids": chosen}, None, len(chosen))
            return
        yield from batches(_chosen(self.samples, numbers), self.data.spec, self.data.tokenizer, batch_size=len(numbers))


def _chosen(samples: Arrays | LabelledText | Images, numbers: Tensor) -> Arrays | LabelledText | Images:
    if isinstance(samples, Images):
        return samples.at(numbers.tolist())
    if isinstance(samples, Arrays):
        return Arrays(samples.x[numbers], None if samples.y is None else samples.y[numbers])
    picked = numbers.tolist()
    labels = None if samples.labels is None else [samples.labels[number] for number in picked]
    return LabelledText([samples.texts[number] for number in picked], labels)


def parts(numbers: Tensor, size: int) -> list[Tensor]:
    """Parts of `size`; one sample left over joins the part before it, since batch norms cannot take it alone."""
    found = list(torch.split(numbers, size))
    if len(found) > 1 and len(found[-1]) == 1:
        found[-2:] = [torch.cat(found[-2:])]
    return found


def to_device(batch: Batch, device: torch.device) -> Batch:
    inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
    return Batch(inputs, None if batch.targets is None else batch.targets.to(device), batch.n)
