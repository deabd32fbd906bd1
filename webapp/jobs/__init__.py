"""Durable work: the workflows, the child process that runs the engine, and what keeps the workers alive.

The web process only uses `client` (put work into a queue, cancel, retry). A worker process (`worker`) takes work
out of the queues; the arithmetic happens in a child of its own (`child`), which the worker watches and survives.
Jobs know the engine and the store, and no views. Nothing here imports torch.
"""
