"""Products of matrices. Those with a weight are made on two axes, as plain matrices."""

from __future__ import annotations

import tensorflow as tf

from webapp.engine.exporters.savedmodel.values import Dynamic, Tensor, Value
from webapp.engine.exporters.savedmodel.weights import Weight

from .registry import MICROSOFT, ConvertedNode, Unmapped, layouts
from .registry import plain as plain_operator


def times(x: Tensor, weight: Weight) -> Tensor:
    """(..., in) times (in, out); a weight that is stored as (out, in) is read so."""
    transposed = weight.turns is not None
    matrix = weight.turns.plain() if weight.turns is not None else weight.plain()
    columns = matrix.shape[0 if transposed else 1]
    if len(x.shape) == 2:
        return tf.matmul(x, matrix, transpose_b=transposed)
    flat = tf.matmul(tf.reshape(x, [-1, matrix.shape[1 if transposed else 0]]), matrix, transpose_b=transposed)
    sizes = tf.shape(x)
    found = tf.reshape(flat, tf.concat([sizes[:-1], [columns]], 0))
    return tf.ensure_shape(found, [*x.shape[:-1], columns])


@layouts("MatMul")
def matmul(node: ConvertedNode, a: Value, b: Value) -> Value:
    if isinstance(b, Weight) and b.rank == 2 and a.rank > 1:
        return Dynamic(times(a.plain(), b))
    return Dynamic(product(a.plain(), b.plain()))


def product(a: Tensor, b: Tensor) -> Tensor:
    """As numpy's matmul: of one axis the left is a row, the right a column, and that axis goes again."""
    row, column = len(a.shape) == 1, len(b.shape) == 1
    found = tf.matmul(a[tf.newaxis, :] if row else a, b[:, tf.newaxis] if column else b)
    found = tf.squeeze(found, -1) if column else found
    return tf.squeeze(found, -1 if column else -2) if row else found


@layouts("Gemm")
def gemm(node: ConvertedNode, a: Value, b: Value, c: Value | None = None) -> Value:
    about = {"transpose_a": bool(node.get("transA", 0)), "transpose_b": bool(node.get("transB", 0))}
    found = tf.matmul(a.plain(), b.plain(), **about)
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    found = found if alpha == 1 else alpha * found
    if c is None:
        return Dynamic(found)
    return Dynamic(found + (c.plain() if beta == 1 else beta * c.plain()))


@layouts(MICROSOFT + "MatMulNBits")
def few_bits(
    node: ConvertedNode, x: Value, packed: Value, scales: Value, zeros: Value | None = None, *more: Value
) -> Value:
    """`packed` is uint8 (out, blocks, block / 2): two codes in a byte, the first in its lower half."""
    if node.get("bits", 4) != 4 or more:
        raise Unmapped("MatMulNBits with other than 4 bits, or with groups in another order")
    rows, columns, block = node.get("N"), node.get("K"), node.get("block_size")

    def halves(pairs: Tensor) -> Tensor:
        """(out, n) -> (out, 2 n) float32."""
        parts = tf.stack([pairs & 15, tf.bitwise.right_shift(pairs, 4)], axis=-1)
        return tf.cast(tf.reshape(parts, [rows, -1]), tf.float32)

    def decode(pairs: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        codes = tf.reshape(halves(tf.reshape(pairs, [rows, -1])), [rows, -1, block])
        blocks = codes.shape[1]
        middle = 8.0 if zero is None else halves(tf.reshape(zero, [rows, -1]))[:, :blocks, tf.newaxis]
        values = (codes - middle) * tf.reshape(scale, [rows, blocks, 1])
        return tf.reshape(values, [rows, -1])[:, :columns]

    given = [packed, scales] + ([] if zeros is None else [zeros])
    matrix = node.weights.computed(f"{node.inputs[1]}.matrix", decode, given)
    return Dynamic(times(x.plain(), node.weights.computed(f"{matrix.name}.turned", tf.transpose, [matrix], matrix)))


@plain_operator("Einsum")
def einsum(node: ConvertedNode, *given: Tensor) -> Tensor:
    return tf.einsum(node.get("equation"), *given)
