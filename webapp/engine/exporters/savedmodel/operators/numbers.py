"""ONNX's numbers of data types as TensorFlow's."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import tensorflow as tf

from .registry import Unmapped

SMALLER = {ir.DataType.INT4: tf.int8, ir.DataType.UINT4: tf.uint8}  # are computed with as these
RANGES = {ir.DataType.INT4: (-8, 7), ir.DataType.UINT4: (0, 15)}


def dtype_of(number: int) -> Any:
    kind = ir.DataType(number)
    if kind in SMALLER:
        return SMALLER[kind]
    try:
        return tf.as_dtype(kind.numpy())
    except TypeError as error:
        raise Unmapped(f"values of type {kind.name}") from error
