"""Converts ONNX files, one after the other, in one process: python convert_all.py MODEL.onnx FOLDER [...]"""

import sys
from pathlib import Path

from webapp.engine.exporters.savedmodel.convert import main

if __name__ == "__main__":
    for onnx, folder in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        assert main(Path(onnx), Path(folder)) == 0, onnx
    assert "torch" not in sys.modules, "TensorFlow's process has torch in it"
