"""What the engine's tests have: small checkpoints and datasets, inspected."""

from tests.engine.conftest import *  # noqa: F403
from tests.engine.run.test_stages import labelled

__all__ = ["labelled"]
