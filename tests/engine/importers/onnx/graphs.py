"""ONNX files of every make: torch's two exporters, and graphs put together node by node."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.export import Dim

from tests import zoo
from webapp.engine.architectures.resnet import ResNetModule
from webapp.engine.facts import CheckpointFacts


class Logits(nn.Module):
    """A model of transformers that answers with its logits alone; `forward` takes its inputs in the order of `keys`."""

    def __init__(self, model: nn.Module, keys: tuple[str, ...], **options: Any) -> None:
        super().__init__()
        self.model, self.keys, self.options = model, keys, options

    def forward(self, *given: Tensor) -> Tensor:
        return self.model(**dict(zip(self.keys, given, strict=True)), **self.options).logits


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))


def cnn() -> nn.Module:
    features = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    features += [nn.Conv2d(8, 16, 3, groups=2), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*features, nn.Linear(16, 5))


TEXT = ("input_ids", "attention_mask", "token_type_ids")
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
PLACES = {"vocab_size": 60, "max_position_embeddings": 64}


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return Logits(
        BertForSequenceClassification(BertConfig(**{**SMALL, **PLACES, "num_hidden_layers": 2}, num_labels=3)), TEXT
    )


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=60, n_embd=32, n_layer=1, n_head=4, n_positions=64)
    return Logits(GPT2LMHeadModel(config), TEXT[:1], use_cache=False)


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return Logits(LlamaForCausalLM(LlamaConfig(**SMALL, **PLACES, num_key_value_heads=2)), TEXT[:1], use_cache=False)


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(**SMALL, image_size=16, patch_size=8, num_labels=4)
    return Logits(ViTForImageClassification(config), ("pixel_values",))


def resnet() -> nn.Module:
    about = {"base": 8, "bottleneck": False, "kernel": 3, "channels": 3, "blocks": (1, 1, 1, 1), "width": 64}
    return ResNetModule({**about, "groups": 1, "bias": True, "classes": 6})


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.gru, self.out = nn.GRU(16, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(self.lstm(x)[0])[1][-1])


IDS = torch.zeros(2, 9, dtype=torch.int64)
CASES: dict[str, tuple[Any, tuple[Tensor, ...], tuple[int, ...]]] = {  # name -> module, example, free axes
    "mlp": (mlp, (torch.zeros(2, 20),), (0,)),
    "cnn": (cnn, (torch.zeros(2, 3, 16, 16),), (0,)),
    "resnet": (resnet, (torch.zeros(2, 3, 32, 32),), (0,)),
    "bert": (bert, (IDS, torch.ones_like(IDS), torch.zeros_like(IDS)), (0, 1)),
    "gpt2": (gpt2, (IDS,), (0, 1)),
    "llama": (llama, (IDS,), (0, 1)),
    "vit": (vit, (torch.zeros(2, 3, 16, 16),), (0,)),
    "recurrent": (Recurrent, (torch.zeros(2, 5, 12),), (0,)),
}


def exported(name: str, dynamo: bool = True, free: bool = True) -> Path:
    """The file of a case."""
    folder = zoo.once(f"onnx {name} {dynamo} {free}", lambda folder: export(name, folder / "m.onnx", dynamo, free))
    return folder / "m.onnx"


def inspected(name: str, dynamo: bool = True, free: bool = True) -> tuple[Path, CheckpointFacts]:
    """The folder of a case's normalised files, and its facts."""
    return zoo.inspected(f"inspected onnx {name} {dynamo} {free}", lambda _: exported(name, dynamo, free))


def export(name: str, path: Path, dynamo: bool, free: bool) -> None:
    """A case with seeded weights that are all different, as those of a trained model are."""
    make, given, axes = CASES[name]
    given = given if free else tuple(x[:1] for x in given)
    torch.manual_seed(0)
    module = make().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for buffer in [b for key, b in module.named_buffers() if key.endswith(("running_mean", "running_var"))]:
            buffer.add_(0.1 * torch.rand_like(buffer))
    wrapped = isinstance(module, Logits)
    names = list(module.keys) if wrapped else ["x"]
    options: dict[str, Any] = {"input_names": names, "output_names": ["logits"], "dynamo": dynamo}
    if dynamo:
        shapes = tuple(dict.fromkeys(axes, Dim.DYNAMIC) for _ in given)
        options |= {"external_data": False, "verbose": False}
        options["dynamic_shapes"] = ((shapes,) if wrapped else shapes) if free else None
    else:
        options |= {"opset_version": 14, "dynamic_axes": dict.fromkeys(names, dict.fromkeys(axes)) if free else None}
        if free:
            options["dynamic_axes"] = {key: {axis: f"free{axis}" for axis in axes} for key in names}
    with warnings.catch_warnings(), zoo.uncached():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, given, path, **options)


def written(path: Path, nodes: list[Any], tensors: dict[str, Any], given: Any = None, opset: int = 17) -> Path:
    """A file of nodes (op, inputs, outputs, attributes), of which the last output is the graph's."""
    name, kind, shape = given or ("x", TensorProto.FLOAT, ["N", 6])
    made = [helper.make_node(op, inputs, outputs, **about) for op, inputs, outputs, about in nodes]
    held = [numpy_helper.from_array(np.asarray(value), key) for key, value in tensors.items()]
    answer = helper.make_tensor_value_info(nodes[-1][2][0], TensorProto.FLOAT, None)
    graph = helper.make_graph(made, "g", [helper.make_tensor_value_info(name, kind, shape)], [answer], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def answered(path: Path, given: list[Tensor]) -> Tensor:
    """What onnxruntime answers, sample by sample where the file takes one at a time."""
    session = onnxruntime.InferenceSession(path)
    about = session.get_inputs()
    feeds = [[x.numpy() for x in given]]
    if about[0].shape[0] == 1:
        feeds = [[x[row : row + 1].numpy() for x in given] for row in range(len(given[0]))]
    rows = [session.run(None, {i.name: x for i, x in zip(about, feed, strict=True)})[0] for feed in feeds]
    return torch.from_numpy(np.concatenate(rows))
