"""An ONNX graph as a TensorFlow SavedModel, operator by operator.

What is here runs in processes of its own, which know no torch; only `runtime` belongs to the process that calls them.
"""
