"""python -m webapp.serving FOLDER SOCKET: serves the model in the folder until the process is ended."""

from __future__ import annotations

import sys
from pathlib import Path

from . import UNLOADABLE
from .errors import Unloadable
from .model import ServedModel
from .server import ModelServer


def main() -> None:
    folder, address = map(Path, sys.argv[1:])
    try:
        model = ServedModel(folder)
    except Unloadable as error:
        print(error.message, file=sys.stderr)
        sys.exit(UNLOADABLE)
    with ModelServer(address, model) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
