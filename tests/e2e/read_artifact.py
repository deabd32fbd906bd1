"""Run by a test in a process of its own: loads a downloaded file and prints its accuracy on x_test of an .npz."""

import sys

import numpy as np
import torch

from webapp.engine import load

model, arrays = load(sys.argv[1]), np.load(sys.argv[2])
with torch.inference_mode():
    answers = model(torch.from_numpy(arrays["x_test"])).argmax(1).numpy()
print((answers == arrays["y_test"]).mean())
