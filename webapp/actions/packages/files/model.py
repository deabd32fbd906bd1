"""The compressed model in onnxruntime, with its tokenizer where it reads text. Needs neither torch nor Pare."""

import json
from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).parent
ABOUT = json.loads((HERE / "about.json").read_text(encoding="utf8"))
PAST = "past_key_values."
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


class OnnxModel:
    """`inputs` by name, each with its dtype and shape; an axis that is no number may have any size."""

    def __init__(self, threads=0):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        path, providers = HERE / ABOUT["model"], ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(path, options, providers=providers)
        given = {each.name: (DTYPES[each.type], each.shape) for each in self.session.get_inputs()}
        self.kept = {name: given.pop(name) for name in list(given) if name.startswith(PAST)}
        self.inputs = given
        self.output = self.session.get_outputs()[0].name
        self.tokenizer = _tokenizer()

    def run(self, given):
        """Arrays by input name, the batch first -> the answers (batch, ...). Raises ValueError with a sentence."""
        feed = {name: self._checked(name, given) for name in self.inputs}
        return self.session.run([self.output], feed | self._nothing(len(next(iter(feed.values())))))[0]

    def read(self, texts):
        """Texts as the model's inputs, each cut after the model's window."""
        if self.tokenizer is None:
            raise ValueError("This model reads numbers, or came without a tokenizer; send its inputs by name.")
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise ValueError("text has to be a list of texts that are not empty.")
        rows = self.tokenizer.encode_batch(texts)
        return {
            "input_ids": np.array([row.ids for row in rows]),
            "attention_mask": np.array([row.attention_mask for row in rows]),
        }

    def continued(self, text, tokens=32):
        """A language model's most probable continuation, one token after the other."""
        ids, read, kept = self.tokenizer.encode(text).ids, 0, self._nothing(1)
        for _ in range(min(tokens, ABOUT["max_tokens"] - len(ids))):
            feed = {"input_ids": np.array([ids[read:]]), "attention_mask": np.ones((1, len(ids)), np.int64)}
            wanted = [self.output, *(name.replace(PAST, "present.") for name in kept)]
            answer, *found = self.session.run(wanted, feed | kept)
            if kept:  # keys and values of what was read; else all is read again
                read, kept = len(ids), dict(zip(kept, found, strict=True))
            ids.append(int(answer[0, -1].argmax()))
            if ids[-1] in ABOUT["ends"]:
                break
        return self.tokenizer.decode(ids)

    def _nothing(self, batch):
        """What a language model keeps before its first token."""
        return {name: np.zeros((batch, shape[1], 0, shape[3]), dtype) for name, (dtype, shape) in self.kept.items()}

    def _checked(self, name, given):
        dtype, shape = self.inputs[name]
        if name not in given:
            raise ValueError(f"{name} is missing; the model takes {', '.join(self.inputs)}.")
        try:
            array = np.asarray(given[name], dtype)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{name} has to be numbers of {dtype.__name__} in rows of equal length.") from None
        fits = len(array.shape) == len(shape) and all(
            has == wants or not isinstance(wants, int) for has, wants in zip(array.shape, shape, strict=True)
        )
        if not fits:
            wanted = " × ".join(str(size) for size in shape)
            raise ValueError(f"{name} has shape {list(array.shape)}; the model takes {wanted}.")
        return array


def probabilities(scores):
    """(batch, classes) of any numbers -> those of a softmax."""
    exponents = np.exp(scores - scores.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def _tokenizer():
    path = HERE / "tokenizer.json"
    if not path.exists() or not ABOUT["max_tokens"]:
        return None
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(path))
    found.enable_truncation(ABOUT["max_tokens"])
    found.enable_padding(pad_id=ABOUT["pad"])
    return found
