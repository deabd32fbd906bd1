"""What a compressed model needs to run somewhere else, packed for each place: no package needs Pare."""

from .packing import pack
from .stored import RunFiles
from .targets import TARGETS, Target, offered

__all__ = ["TARGETS", "RunFiles", "Target", "offered", "pack"]
