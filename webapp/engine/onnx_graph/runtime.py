"""An ONNX file in onnxruntime, as a module that is called like the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from ..facts import ArchitectureSpec

Array = np.ndarray[Any, Any]


class SessionModule(nn.Module):
    """Runs on the processor, with as many threads as torch has here and onnxruntime's own optimisations."""

    def __init__(self, path: Path, spec: ArchitectureSpec) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs: list[str] = [given.name for given in self.session.get_inputs()]
        self.answer = self.session.get_outputs()[0].name
        self.named = spec.family == "transformers"
        self.runtime = (
            f"onnxruntime {onnxruntime.__version__}, CPU, {options.intra_op_num_threads} threads within an operator, "
            "all graph optimisations"
        )

    def forward(self, *given: Tensor, use_cache: bool = False, **named: Tensor) -> Any:
        feed = named or dict(zip(self.inputs, given, strict=True))
        answer = torch.from_numpy(self.ask({name: feed[name].numpy() for name in self.inputs}))
        return {self.answer: answer} if self.named else answer

    def ask(self, given: Mapping[str, Array]) -> Array:
        """The answer to arrays under the inputs' names."""
        found: Array = self.session.run([self.answer], dict(given))[0]
        return found
