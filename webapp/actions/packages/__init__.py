"""What a compressed model needs to run somewhere else, packed for each place: no package needs Pare."""

from .stored import RunFiles, pack
from .targets import TARGETS, Target, offered
