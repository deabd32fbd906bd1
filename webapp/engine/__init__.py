"""The engine: torch and numerics.

It knows no Flask, no database and no job system; `webapp.engine` may import none of them.
It gets files and plain data, and gives files and plain data back.
It reports and learns that it should stop through `progress.Report`, and nothing else.
It never opens a connection: the hub of the models it reads is switched off before anything can ask it.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported
