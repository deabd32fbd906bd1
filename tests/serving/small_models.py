"""ONNX files whose answers can be worked out by hand, with what a deployment lays beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import WordPiece

WORDS = ["<pad>", "<end>", "one", "two", "three", "four", "<user>", "<assistant>"]
FOLLOWS = {"one": "two", "two": "three", "three": "four", "four": "<end>", "<assistant>": "one", "<user>": "one"}
TEMPLATE = (
    "{% for m in messages %}<user> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
WEIGHT = np.array([[1, 0], [0, 1], [2, -1]], np.float32)  # (features, classes)


def save(folder: Path, nodes, inputs, outputs, constants, about) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "model", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    told = {"model": "model.onnx", "classes": None, "preprocessing": None, "threads": 1} | about
    (folder / "about.json").write_text(json.dumps(told))
    return folder


def tensor(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, shape)


def architecture(task, **inputs):
    family = "transformers" if "vocab" in inputs else "sequential"
    return {"family": family, "title": "Small", "task": task, "config": {}, "inputs": inputs}


def classifier(folder: Path, name: str = "rows") -> Path:
    """x (batch, 3) @ WEIGHT -> logits (batch, 2), of the classes cat and dog."""
    return save(
        folder,
        [helper.make_node("MatMul", ["x", "weight"], ["logits"])],
        [tensor("x", TensorProto.FLOAT, "batch", 3)],
        [tensor("logits", TensorProto.FLOAT, "batch", 2)],
        {"weight": WEIGHT},
        {"name": name, "architecture": architecture("classification", shape=[3]), "classes": ["cat", "dog"]},
    )


def of_tokens(folder: Path, name: str, task: str, table: np.ndarray, answer: str) -> Path:
    """Each token's row of the table; the mask is read, and changes nothing."""
    ids, mask = (tensor(n, TensorProto.INT64, "batch", "sequence") for n in ("input_ids", "attention_mask"))
    save(
        folder,
        [
            helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["kept", "kept"], ["nothing"]),
            helper.make_node("Unsqueeze", ["nothing", "last"], ["wide"]),
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("Add", ["rows", "wide"], [answer]),
        ],
        [ids, mask],
        [tensor(answer, TensorProto.FLOAT, "batch", "sequence", table.shape[1])],
        {"table": table, "last": np.array([-1], np.int64)},
        {"name": name, "architecture": architecture(task, tokens=8, vocab=len(WORDS))},
    )
    return with_tokenizer(folder)


def keeper(folder: Path) -> Path:
    """Writes the word whose place in WORDS is the count of tokens so far, which it knows from what it keeps."""
    ids = tensor("input_ids", TensorProto.INT64, "batch", "sequence")
    mask = tensor("attention_mask", TensorProto.INT64, "batch", "total_sequence")
    past, kept = (
        [tensor(f"{name}.0.{part}", TensorProto.FLOAT, "batch", 1, sizes, 1) for part in ("key", "value")]
        for name, sizes in (("past_key_values", "past_sequence"), ("present", "total"))
    )
    save(
        folder,
        [
            helper.make_node("Cast", ["input_ids"], ["read"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["read", "ends"], ["new"]),
            *(
                helper.make_node("Concat", [f"past_key_values.0.{part}", "new"], [f"present.0.{part}"], axis=2)
                for part in ("key", "value")
            ),
            helper.make_node("Shape", ["present.0.key"], ["count"], start=2, end=3),
            helper.make_node("Gather", ["words", "count"], ["row"]),
            helper.make_node("Unsqueeze", ["read", "last"], ["wide"]),
            helper.make_node("Mul", ["wide", "zero"], ["nothing"]),
            helper.make_node("Add", ["nothing", "row"], ["logits"]),
        ],
        [ids, mask, *past],
        [tensor("logits", TensorProto.FLOAT, "batch", "sequence", len(WORDS)), *kept],
        {
            "words": 50 * np.eye(len(WORDS), dtype=np.float32),
            "ends": np.array([1, 3], np.int64),
            "last": np.array([-1], np.int64),
            "zero": np.zeros(1, np.float32),
        },
        {"name": "keeper", "architecture": architecture("causal-lm", tokens=8, vocab=len(WORDS))},
    )
    return with_tokenizer(folder)


def with_tokenizer(folder: Path) -> Path:
    words = Tokenizer(models.WordLevel({word: id for id, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = WordPiece(prefix="##", cleanup=False)  # words with a space between them
    words.add_special_tokens(["<pad>", "<end>", "<user>", "<assistant>"])
    words.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<end>", "pad_token": {"content": "<pad>"}, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def writer(folder: Path, name: str = "writer") -> Path:
    """After each word comes the one that FOLLOWS it, fifty times as likely (in log) as any other."""
    table = np.zeros((len(WORDS), len(WORDS)), np.float32)
    for word, following in FOLLOWS.items():
        table[WORDS.index(word), WORDS.index(following)] = 50
    return of_tokens(folder, name, "causal-lm", table, "logits")


def encoder(folder: Path, name: str = "encoder") -> Path:
    """Each word is a corner of the cube."""
    return of_tokens(folder, name, "embedding", np.eye(len(WORDS), dtype=np.float32), "last_hidden_state")


def averager(folder: Path, name: str = "images") -> Path:
    """x (batch, 3, 2, 2) -> logits (batch, 3), the mean of each channel; images are stretched and normalised."""
    prepared = {"resize": "stretch", "height": 2, "width": 2, "shortest": 2, "mean": [0.5], "std": [0.5]}
    return save(
        folder,
        [helper.make_node("ReduceMean", ["x", "axes"], ["logits"], keepdims=0)],
        [tensor("x", TensorProto.FLOAT, "batch", 3, 2, 2)],
        [tensor("logits", TensorProto.FLOAT, "batch", 3)],
        {"axes": np.array([2, 3], np.int64)},
        {"name": name, "architecture": architecture("classification", shape=[3, 2, 2]), "preprocessing": prepared},
    )
