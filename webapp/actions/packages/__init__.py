"""What a compressed model needs to run somewhere else, packed for each place: no package needs Pare."""

from .packing import pack
from .stored import Taken
from .targets import TARGETS, Target, offered

__all__ = ["TARGETS", "Taken", "Target", "offered", "pack"]
