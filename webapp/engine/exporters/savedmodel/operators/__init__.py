"""The operators, a file for each kind; importing them fills the table."""

from webapp.engine.exporters.savedmodel.names import KNOWN

from . import convolutions, integers, pointwise, pooling, products, reductions, shapes
from .registry import OPERATORS, ConvertedNode, Unmapped

assert set(OPERATORS) == KNOWN, set(OPERATORS) ^ KNOWN

KINDS = (convolutions, integers, pooling, pointwise, products, reductions, shapes)
