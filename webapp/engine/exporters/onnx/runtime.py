"""An ONNX file in onnxruntime, as a module that is called like the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from webapp.engine.architectures.kv_cache import PAST, PRESENT, CachedReader, cache_inputs, empty_cache
from webapp.engine.facts import ArchitectureSpec

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
        self.kept = cache_inputs(self.session)
        self.inputs = [given.name for given in self.session.get_inputs() if not given.name.startswith(PAST)]
        self.answers = [made.name for made in self.session.get_outputs() if not made.name.startswith(PRESENT)]
        self.answer = self.answers[0]
        self.named = spec.family == "transformers"
        self.runtime = (
            f"onnxruntime {onnxruntime.__version__}, CPU, {options.intra_op_num_threads} threads within an operator, "
            "all graph optimisations"
        )

    def forward(self, *given: Tensor, use_cache: bool = False, **named: Tensor) -> Any:
        feed = named or dict(zip(self.inputs, given, strict=True))
        found = self._asked({name: feed[name].numpy() for name in self.inputs})
        answers = [torch.from_numpy(array) for array in found]
        if self.named:
            return dict(zip(self.answers, answers, strict=True))
        return answers if answers[1:] else answers[0]

    def ask(self, given: Mapping[str, Array]) -> Array:
        """The first answer to arrays under the inputs' names."""
        return self._asked(given)[0]

    def _asked(self, given: Mapping[str, Array]) -> list[Array]:
        past = empty_cache(self.kept, len(given[self.inputs[0]]))
        found: list[Array] = self.session.run(self.answers, {**given, **past})
        return found


class InParts(nn.Module):
    """A file that keeps keys and values reads a text's first half, then a token, then the rest."""

    def __init__(self, whole: SessionModule) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool = False) -> Any:
        reading, half = CachedReader(self.whole.session, self.whole.answer, len(input_ids)), input_ids.shape[1] // 2
        parts = [slice(0, half), slice(half, half + 1), slice(half + 1, None)]
        pairs = [(input_ids[:, part].numpy(), attention_mask[:, part].numpy()) for part in parts]
        answers = [reading.after(ids, mask) for ids, mask in pairs if ids.size]
        return {self.whole.answer: torch.from_numpy(np.concatenate(answers, axis=1))}
