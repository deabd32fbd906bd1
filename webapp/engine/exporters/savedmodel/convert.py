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
    import onnx_ir as ir

    from .names import missing

    graph = ir.load(onnx).graph
    if unknown := missing(graph):  # before TensorFlow is read, which takes seconds
        return unfit(f"the operator{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}")

    import tensorflow as tf

    from .conversion import Converted
    from .operators import Unmapped

    try:
        converted = Converted(graph)
        answers = converted.answers()
    except Unmapped as error:
        return unfit(str(error))
    tf.saved_model.save(converted, str(folder), signatures={SIGNATURE: answers})
    print(json.dumps({"decoded": len(converted.weights.decoded_by_name)}))
    return 0


def unfit(reason: str) -> int:
    print(json.dumps({"unfit": reason}))
    return UNFIT


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
