"""The training loop: steps, evaluations, checkpoints. What it does depends on nothing but what it is given.

A training that was killed goes on from its last checkpoint and ends with the weights of one that was not: the order of
the samples comes from seed and epoch, everything else that a step depends on is in the checkpoint.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import pickle
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.progress import Report
from webapp.engine.techniques.training.settings import rate_factor

from .samples import TrainingSamples, parts, to_device
from .settings import TrainingSettings
from .student import Objective, Student

EVALUATIONS = 10  # at least, spread over a training, unless they would take more than
VALIDATING = 0.15  # of its time; a sample that is validated takes a third of one that is trained on
FEWEST = 3  # evaluations after the first
POINTS = 100  # of the training loss on the chart
MOMENTUM = 0.9  # of SGD
STATE = "training.pt"
EVERY_SECONDS = 60.0
LARGEST_SHARE = 0.1  # of the time may go into writing at the ends of epochs


class Checkpoints:
    """Of one training, in `folder`. `identity` tells it from another training that left its state there.

    Each is written beside its final name and renamed, so that a kill at any moment leaves one.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # a process that was given up is still at it
            folder = folder / str(os.getpid())
            folder.mkdir()
        self.folder, self.identity = folder, identity
        self._written_at, self._took = time.monotonic(), 0.0

    def close(self) -> None:
        self._lock.close()

    def load(self) -> dict[str, Any] | None:
        """What `save` wrote last; None where there is nothing, or nothing that can be read."""
        path = self.folder / STATE
        if not path.exists() or not zipfile.is_zipfile(path):  # the latter ends the file: it is whole
            return None
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError):
            return None
        if not isinstance(found, dict) or found.get("identity") != self.identity:
            return None
        return found if (self.folder / _best(found["best_step"])).exists() else None

    def due(self, epoch_ends: bool) -> bool:
        since = time.monotonic() - self._written_at
        return since >= EVERY_SECONDS or (epoch_ends and since * LARGEST_SHARE >= self._took)

    def save(self, state: dict[str, Any]) -> None:
        start = time.monotonic()
        self._write(STATE, state | {"identity": self.identity})
        for path in self.folder.glob("best-*.pt"):
            if path.name != _best(state["best_step"]):
                path.unlink(missing_ok=True)
        self._written_at = time.monotonic()
        self._took = self._written_at - start

    def save_best(self, step: int, weights: dict[str, Tensor]) -> None:
        """Kept beside earlier ones until a state names it: what a restart goes back to must be there."""
        self._write(_best(step), {name: tensor.detach() for name, tensor in weights.items()})

    def best(self, step: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = torch.load(self.folder / _best(step), map_location="cpu", weights_only=True)
        return found

    def _write(self, name: str, content: dict[str, Any]) -> None:
        partial = self.folder / f"{name}.partial"
        torch.save(content, partial)
        partial.replace(self.folder / name)


def _best(step: int) -> str:
    return f"best-{step}.pt"


@dataclass
class Trained:
    """How far a training is, and how it ended. Losses are those on the validation part where there is one."""

    step: int = 0
    seconds: float = 0.0  # spent, over restarts
    first_loss: float = math.nan
    best_loss: float = math.inf
    best_step: int = 0  # whose weights are kept
    waited: int = 0  # evaluations without improvement
    ended: str = ""  # why before its epochs were done: "patience", "time", "diverged"


def train(
    student: Student,
    objective: Objective,
    samples: TrainingSamples,
    rate: float,
    scratch: Path | None,
    report: Report,
    title: str,
) -> Trained:
    """Leaves the best weights in the student (not yet in its model). `scratch` keeps checkpoints over restarts."""
    with _folder(scratch) as folder:
        loop = _Loop(student, objective, samples, rate, folder, report, title)
        with closing(loop.checkpoints):
            return loop.run()


class _Loop:
    def __init__(
        self,
        student: Student,
        objective: Objective,
        samples: TrainingSamples,
        rate: float,
        folder: Path,
        report: Report,
        title: str,
    ) -> None:
        settings: TrainingSettings = student.settings
        self.student, self.objective, self.samples, self.settings = student, objective, samples, settings
        self.report, self.title, self.rate = report, title, rate
        self.micro = settings.batch(student.spec)
        self.size = self.micro * settings.accumulate
        self.per_epoch = samples.steps_per_epoch(self.size)
        self.total = max(1, math.ceil(settings.epochs * self.per_epoch - 1e-9))
        self.every = max(1, min(self.per_epoch, self.total // self._evaluations()))
        self.weights = {**student.leaves(), **objective.extra()}
        self.optimizer = _optimizer(settings, self.weights, rate)
        self.at = Trained()
        self.checkpoints = Checkpoints(folder, self._identity())
        self._recent: list[float] = []
        self._points: list[tuple[str, int, float]] = []

    def _evaluations(self) -> int:
        affordable = 3 * VALIDATING * self.total * self.size / max(len(self.samples.validation), 1)
        return min(EVALUATIONS, max(FEWEST, int(affordable)))

    def run(self) -> Trained:
        if not self._resume():
            self._begin()
        begun = time.monotonic() - self.at.seconds
        for numbers in self.samples.steps(self.size, self.at.step, self.total):
            if self.at.ended:
                break
            self._step(numbers)
            self.at.seconds = time.monotonic() - begun
            self._judge()
            if self.checkpoints.due(self.at.step % self.per_epoch == 0):
                self._save()
        if len(self.samples.validation) or self.at.ended == "diverged":
            self.student.restore(self.checkpoints.best(self.at.best_step))
        self.report.progress(1.0)
        return self.at

    def _step(self, numbers: Tensor) -> None:
        """One change of the weights. A loss that is no number changes none and ends the training."""
        self.student.training(True)
        factor = rate_factor(self.settings.schedule, self._done(0.5), self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(self._losses(numbers, backward=True))
        self.student.mask_gradients()
        leaves = list(self.weights.values())
        norm = torch.nn.utils.get_total_norm([leaf.grad for leaf in leaves if leaf.grad is not None])
        if not math.isfinite(loss) or not bool(norm.isfinite()):
            self.at.ended = "diverged"
            return
        if self.settings.clip:
            torch.nn.utils.clip_grads_with_norm_(leaves, self.settings.clip, norm)
        self.optimizer.step()
        self.at.step += 1
        self._recent.append(loss)

    def _losses(self, numbers: Tensor, backward: bool) -> Iterator[float]:
        """The batches' losses, each weighted by its share of the samples; their sum is the mean over all samples."""
        for part in parts(numbers, self.micro):
            for batch in self.samples.source.batches(part):
                with self.settings.autocast(self.student.device):
                    loss = self.objective.loss(self.student, to_device(batch, self.student.device))
                weighted = loss * (batch.n / len(numbers))
                if backward:
                    weighted.backward()  # type: ignore[no-untyped-call]
                yield float(weighted.detach())

    def _validated(self) -> float:
        self.student.training(False)
        with torch.no_grad():
            return sum(self._losses(self.samples.validation, backward=False))

    def _judge(self) -> None:
        """Evaluates where it is time to, keeps what is best, and says whether the training ends here."""
        settings, at = self.settings, self.at
        if settings.minutes and at.seconds >= 60 * settings.minutes:
            at.ended = at.ended or "time"
        last = at.step >= self.total or bool(at.ended)
        self._tell(last)
        if at.ended == "diverged" or not len(self.samples.validation) or not (last or at.step % self.every == 0):
            return
        loss = self._validated()
        self._point("Validation", at.step, loss)
        if loss < at.best_loss:
            at.best_loss, at.best_step, at.waited = loss, at.step, 0
            self.checkpoints.save_best(at.step, self.student.state())
        else:
            at.waited += 1
            if settings.patience and at.waited >= settings.patience and not last:
                at.ended = "patience"

    def _tell(self, last: bool) -> None:
        if not self._recent:
            return
        mean = sum(self._recent) / len(self._recent)
        step, epoch = self.at.step, self.at.step / self.per_epoch
        self.report.progress(
            min(1.0, self._done()), f"{self.title}: step {step:,} of {self.total:,}, epoch {epoch:.1f}, loss {mean:.4g}"
        )
        if last or step % max(1, self.total // POINTS) == 0:
            self._point("Training", step, mean)
            self._recent = []

    def _point(self, series: str, step: int, loss: float) -> None:
        self._points.append((series, step, loss))
        self.report.point(series, step, {self.objective.title: loss})

    def _done(self, ahead: float = 0.0) -> float:
        """The share of the training that is behind, by its steps or by its time, whichever is further."""
        limit = 60 * self.settings.minutes
        return max((self.at.step + ahead) / self.total, self.at.seconds / limit if limit else 0.0)

    def _begin(self) -> None:
        """The weights as they come are the first that may be best."""
        torch.manual_seed(self.samples.seed)
        if len(self.samples.validation):
            self.at.first_loss = self._validated()
            self.at.best_loss = self.at.first_loss if math.isfinite(self.at.first_loss) else math.inf
            self._point("Validation", 0, self.at.first_loss)
        self.checkpoints.save_best(0, self.student.state())

    def _resume(self) -> bool:
        found = self.checkpoints.load()
        if found is None:
            return False
        self.student.restore(found["weights"])
        with torch.no_grad():
            for name, extra in self.objective.extra().items():
                extra.copy_(found["extra"][name])
        self.optimizer.load_state_dict(found["optimizer"])
        torch.set_rng_state(found["random"])
        if self.student.device.type == "cuda":
            torch.cuda.set_rng_state(found["random_cuda"])
        self.at, self._recent = Trained(**found["at"]), found["recent"]
        for point in found["points"]:  # again: what was told last may have died with the one who was told
            self._point(*point)
        self.report.log(f"{self.title}: goes on at step {self.at.step:,} of {self.total:,}")
        return True

    def _save(self) -> None:
        cuda = torch.cuda.get_rng_state() if self.student.device.type == "cuda" else None
        self.checkpoints.save(
            {
                "weights": {name: tensor.detach() for name, tensor in self.student.state().items()},
                "extra": {name: extra.detach() for name, extra in self.objective.extra().items()},
                "optimizer": self.optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "random_cuda": cuda,
                "at": asdict(self.at),
                "best_step": self.at.best_step,
                "recent": self._recent,
                "points": self._points,
            }
        )

    def _identity(self) -> str:
        """Of the training: a state that another one left in the folder is not taken for its own."""
        shapes = [(name, tuple(weight.shape)) for name, weight in self.weights.items()]
        told = f"{self.settings.model_dump_json()} {shapes} {len(self.samples.training)} {self.samples.seed}"
        return hashlib.sha256(told.encode()).hexdigest()


@contextmanager
def _folder(scratch: Path | None) -> Iterator[Path]:
    if scratch is not None:
        yield scratch
        return
    with TemporaryDirectory() as made:
        yield Path(made)


def _optimizer(settings: TrainingSettings, weights: dict[str, nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """Matrices decay, vectors (biases, norms) and scales do not."""
    matrices = [w for name, w in weights.items() if w.dim() > 1 and not name.endswith(".log_scale")]
    others = [w for name, w in weights.items() if w.dim() <= 1 or name.endswith(".log_scale")]
    both: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in both if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM)
    return torch.optim.AdamW(groups, lr=rate)
