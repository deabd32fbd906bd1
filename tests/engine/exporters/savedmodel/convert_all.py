"""Converts ONNX files, one after the other, in one process, and sends the last one TensorFlow Serving's messages.

python convert_all.py MODEL.onnx FOLDER GIVEN.npz FOUND.npz [...]
"""

import sys
from pathlib import Path

import predict_requests

from webapp.engine.exporters.savedmodel.convert import main

if __name__ == "__main__":
    for onnx, folder in zip(sys.argv[1::4], sys.argv[2::4], strict=True):
        assert main(Path(onnx), Path(folder)) == 0, onnx
    predict_requests.main(*sys.argv[-3:])
    assert "torch" not in sys.modules, "TensorFlow's process has torch in it"
