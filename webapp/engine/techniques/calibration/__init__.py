"""What techniques learn from data: which samples they see, and what each layer's inputs are while they go by."""

from .block import CalibrationBlock
from .kept_blocks import KeptBlocks
from .matrices import WeightMatrix, weight_matrices
from .samples import TechniqueData
from .sequential_calibration import calibration_blocks
from .statistics import Covariance, CrossCovariance, SquareSum, Statistic
