"""The operators, a file for each kind; importing them fills the table."""

from . import convolutions, integers, pointwise, pooling, products, reductions, shapes, sizes
from .registry import OPERATORS, Node, Unmapped

KINDS = (convolutions, integers, pooling, pointwise, products, reductions, shapes, sizes)

__all__ = ["OPERATORS", "Node", "Unmapped"]
