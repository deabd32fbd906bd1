"""Run by a test in a process of its own: the perplexity of a downloaded language model on a text.

The first 20 chunks of 512 tokens that do not overlap; exp of the mean negative log likelihood of tokens 1 to 511 of
each. Nothing of Pare's measuring is used, only its reader of the file.
"""

import math
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

from webapp.engine import load

CHUNKS, LENGTH = 20, 512

folder, text = Path(sys.argv[1]), Path(sys.argv[2]).read_text(encoding="utf8")
model = load(folder / "model.safetensors")
ids = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False).input_ids
total = 0.0
with torch.inference_mode():
    for chunk in torch.tensor(ids[: CHUNKS * LENGTH]).view(CHUNKS, LENGTH):
        told = model(input_ids=chunk[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
        total -= told.gather(1, chunk[1:, None]).double().sum().item()
print(math.exp(total / (CHUNKS * (LENGTH - 1))))
