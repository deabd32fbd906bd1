"""The process that writes a SavedModel. `python -m webapp.engine.exporters.savedmodel.convert MODEL.onnx FOLDER`

Its last line on stdout is JSON: what it wrote, or, with the exit status UNFIT and nothing written, the reason.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

UNFIT = 3
SIGNATURE = "serving_default"


def main(onnx: Path, folder: Path) -> int:
    import tensorflow as tf

    from .conversion import Converted, read
    from .operators import Unmapped

    try:
        converted = Converted(read(onnx))
        answers = converted.answers()
    except Unmapped as error:
        print(json.dumps({"unfit": str(error)}))
        return UNFIT
    tf.saved_model.save(converted, str(folder), signatures={SIGNATURE: answers})
    print(json.dumps({"decoded": len(converted.weights.decoded_by_name)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
