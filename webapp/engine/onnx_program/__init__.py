"""An ONNX graph run with torch's functions, so that torch.export can write it down as a program (`..programs`).

`graph` reads nodes and their attributes as data, `naming` says what its weights are called here, `interpreter` runs the
operators of a fixed table, and `tracing` sends stand-ins without numbers through it. No code comes from the file, and
what is not in the table is not run.
"""
