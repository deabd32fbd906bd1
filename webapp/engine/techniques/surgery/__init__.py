"""Which channels, neurons and attention heads can be cut out of a model, and what has to be cut along with them."""

from __future__ import annotations

from .structure import check_fits, look_at, narrower, structure_of, with_structure
from .traced import ANSWERS
from .transformers_blocks import OUTSIDE, RESIDUAL

ENDS = (ANSWERS, OUTSIDE, RESIDUAL)  # reasons why nothing is asked of the outputs of a layer whose inputs are cut
