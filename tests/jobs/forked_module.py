"""A child of Pare's fork server that is what `python -m MODULE ARGUMENTS` is, without the time that its imports take.

Its job is JSON: {"command": [module, argument, ...], "environment": {...}, "log": path}.
"""

import json
import os
import runpy
import sys
import tempfile
from pathlib import Path


def preload(*modules: str) -> None:
    import webapp.jobs.deployer
    import webapp.jobs.worker

    webapp.jobs.worker.load_plugins()


def main(job_file: str) -> int:
    job = json.loads(Path(job_file).read_text())
    log = os.open(job["log"], os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    os.environ.clear()
    os.environ |= job["environment"]
    tempfile.tempdir = None
    sys.argv = job["command"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    return 0
