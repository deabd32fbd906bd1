"""What techniques learn from data: which samples they see, and what each layer's inputs are while they go by."""

from .block import Block
from .samples import TechniqueData
from .sequential_calibration import calibration_blocks
from .slots import Slot, slots_of
from .statistics import AbsoluteMean, Covariance, CrossCovariance, SquareSum, Statistic

__all__ = [
    "AbsoluteMean",
    "Block",
    "Covariance",
    "CrossCovariance",
    "Slot",
    "SquareSum",
    "Statistic",
    "TechniqueData",
    "calibration_blocks",
    "slots_of",
]
