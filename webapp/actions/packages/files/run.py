"""Ten lines that run the model: `python run.py`, or `python run.py "A text"` where it reads text."""

import sys

import numpy as np
from model import OnnxModel

model = OnnxModel()
example = np.load("example.npz", allow_pickle=False)
given = model.read(sys.argv[1:]) if len(sys.argv) > 1 else {name: example[f"input.{name}"] for name in model.inputs}
answer = model.run(given)
print(answer.shape, answer.dtype)
print(answer)
