"""A child that dies before it has said its process id. Run by `test_forks`."""

import os


def preload(*modules: str) -> None:
    os.setsid = lambda: os._exit(3)  # the first thing that a child does
