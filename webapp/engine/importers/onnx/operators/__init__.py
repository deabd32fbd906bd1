"""The operators that are run, by the names that the ONNX standard gives them: https://onnx.ai/onnx/operators/.

Each is a function of its node and of its inputs (None for one that is left out), and gives a value or a list of them.
"""

from . import arithmetic, attention, elementwise, indexing, norms, pools, products, recurrent, reductions, shapes
from .table import OPERATORS
