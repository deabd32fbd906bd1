"""A worker whose children can be held: `python -m tests.jobs.held_worker INSTANCE`."""

import logging
import sys
from pathlib import Path

from webapp.config import InstallationSettings
from webapp.jobs.worker import run_worker

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    run_worker(InstallationSettings.load(Path(sys.argv[1])), entry="tests.jobs.held_child")
