"""The engine's child, held where everything of its stage is made and nothing is told yet.

It is held while the file that HOLD names contains the name of its stage.
"""

import json
import os
import time
from pathlib import Path

from webapp.engine.run import child

preload = child.preload


class HeldLines(child.Lines):
    stage = ""

    def send(self, message):
        if "done" in message:
            while self.stage and Path(os.environ["HOLD"]).read_text() == self.stage:
                time.sleep(0.02)
        super().send(message)


def main(job_file: str) -> int:
    HeldLines.stage = json.loads(Path(job_file).read_text()).get("stage", "")
    child.Lines = HeldLines
    return child.main(job_file)
