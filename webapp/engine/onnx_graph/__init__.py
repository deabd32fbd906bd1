"""ONNX graphs of models: traced once, then given the weights in the forms in which they are stored.

Everything here imports onnx, onnxscript or onnxruntime, which take seconds; whoever needs it imports it where it is
needed, in the child process.
"""
