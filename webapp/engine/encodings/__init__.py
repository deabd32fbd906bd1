"""The forms in which a weight can be held and stored; `decoder_of` finds the one that a manifest names."""

from .base import Encoded, dtype_name, dtype_of
from .dense import Dense
from .factored import Factored
from .quantized import Quantized

_BY_KIND: dict[str, type[Encoded]] = {kind: form for form in (Dense, Quantized, Factored) for kind in form.kinds}


def decoder_of(kind: str) -> type[Encoded]:
    """The class that reads weights of this kind back. Raises KeyError for a kind that this version does not know."""
    return _BY_KIND[kind]


__all__ = ["Dense", "Encoded", "Factored", "Quantized", "decoder_of", "dtype_name", "dtype_of"]
