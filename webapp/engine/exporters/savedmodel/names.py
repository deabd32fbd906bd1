"""The ONNX operators that can be put into TensorFlow's words here: known without TensorFlow, which takes seconds."""

from __future__ import annotations

import onnx_ir as ir

NAMES = """
Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Celu Clip Concat Constant ConstantOfShape Conv Cos
CumSum DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten
Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization IsNaN LayerNormalization LeakyRelu Less
LessOrEqual Log LogSoftmax MatMul MatMulInteger Max MaxPool Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow
QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin
ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterND Selu Shape Sigmoid Sign Sin Size Slice Softmax
Softplus Softsign Split Sqrt Squeeze Sub Sum Swish Tan Tanh Tile TopK Transpose Trilu Unsqueeze Where Xor
com.microsoft:MatMulIntegerToFloat com.microsoft:MatMulNBits
"""
KNOWN = frozenset(NAMES.split())


def operator_of(node: ir.Node) -> str:
    return f"{node.domain}:{node.op_type}" if node.domain else node.op_type


def missing(graph: ir.Graph) -> list[str]:
    """The graph's operators that are not known."""
    return sorted({operator_of(node) for node in graph} - KNOWN)
