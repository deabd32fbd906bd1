"""The engine: torch and numerics.

It knows no Flask, no database and no job system; `webapp.engine` may import none of them.
It gets files and plain data, and gives files and plain data back.
It reports and learns that it should stop through `progress.Report`, and nothing else.
It never opens a connection: the hub of the models it reads is switched off before anything can ask it.

`from webapp.engine import load` reads a file that Pare made back to a working module.
"""

import os
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported

if TYPE_CHECKING:
    from webapp.engine.architectures.build import load as load


def __getattr__(name: str) -> Any:
    if name == "load":  # here and not above: torch takes seconds, and most that import this package need none of it
        from webapp.engine.architectures.build import load

        return load
    raise AttributeError(name)
