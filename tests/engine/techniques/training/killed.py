"""A training that kills its own process: `python -m tests.engine.techniques.training.killed JOB.pt SCRATCH STEP`."""

import os
import signal
import sys
from pathlib import Path

import torch

from tests.engine.techniques.training.lessons import Told, blobs, trained
from webapp.engine.facts import CheckpointFacts
from webapp.engine.weights.artifact import read_model


class Deadly(Told):
    """SIGKILL at a step: nothing is tidied up."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def progress(self, fraction, message=""):
        if f"step {self.step} " in message:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, scratch: Path | None, report=None):
    """The model in `folder` learns from its teacher; everything that a checkpoint has to hold is in use."""
    model, teacher = (read_model(folder / f"{name}.safetensors") for name in ("student", "teacher"))
    facts = CheckpointFacts.model_validate_json((folder / "facts.json").read_text())
    torch.manual_seed(99)  # what ran before must not matter
    outcome = trained(
        "distillation",
        model,
        facts,
        blobs(),
        teacher=teacher,
        scratch=scratch,
        report=report,
        epochs=6,
        hidden_weight=1.0,
        learning_rate=0.003,
    )
    return model, outcome


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), Deadly(int(sys.argv[3])))
