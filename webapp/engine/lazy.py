"""torch, imported when it is first used: whoever plans, predicts or draws a form reads declarations beside its code.

`from webapp.engine.lazy import Tensor, functional, nn, torch` stands where `import torch` would. What needs torch while
it is being imported (a subclass of nn.Module) imports the real one, and is itself imported where it is used.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
    from torch import Tensor as Tensor
    from torch import nn as nn
    from torch.nn import functional as functional
else:

    class _LazyModule(ModuleType):
        def __getattr__(self, name: str) -> Any:
            found = getattr(importlib.import_module(self.__name__), name)
            setattr(self, name, found)  # the next time it costs what an attribute of a module costs
            return found

    class _OfTorch(type):
        def __instancecheck__(cls, value: Any) -> bool:
            return isinstance(value, torch.Tensor)

    class Tensor(metaclass=_OfTorch):
        """For annotations and isinstance."""

    torch, nn, functional = _LazyModule("torch"), _LazyModule("torch.nn"), _LazyModule("torch.nn.functional")
