"""The forms in which a weight can be held and stored; `decoder_of` finds the one that a manifest names."""

from .base import Encoded, half_dtype
from .composite import Composite
from .dense import Dense
from .factored import Factored, Pivoted
from .factored_conv import FactoredConv
from .quantized import Quantized
from .safetensors import dtype_name, dtype_of

_FORMS: tuple[type[Encoded], ...] = (Dense, Quantized, Factored, Pivoted, FactoredConv)
_BY_KIND = {kind: form for form in _FORMS for kind in form.kinds}


def decoder_of(kind: str) -> type[Encoded]:
    """The class that reads weights of this kind back. Raises KeyError for a kind that this version does not know."""
    return _BY_KIND[kind]


__all__ = [
    "Composite",
    "Dense",
    "Encoded",
    "Factored",
    "FactoredConv",
    "Pivoted",
    "Quantized",
    "decoder_of",
    "dtype_name",
    "dtype_of",
    "half_dtype",
]
