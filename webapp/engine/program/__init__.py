"""Exported programs: a module's graph of ATen operators with its weights, which torch alone loads and runs.

https://docs.pytorch.org/docs/stable/export.html. Tracing imports what onnx_graph imports; whoever needs it imports it
where it is needed, in the child process.
"""
