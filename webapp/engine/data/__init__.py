"""Datasets: read once when they are uploaded, split once, and given to techniques and to measuring as batches.

`inspect` takes an upload in by one of the `readers`; `datasets` opens what it left. What evaluates is never
learned from.
"""
