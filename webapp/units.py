"""Numbers as people read them. MB is 10^6 bytes."""

from __future__ import annotations


def byte_text(size_bytes: float) -> str:
    """ "512 B", "14.2 kB", "3.40 MB", "1.25 GB": three digits, decimal prefixes."""
    divisor, unit = byte_unit(size_bytes)
    return f"{three_digits(size_bytes / divisor)} {unit}" if divisor > 1 else f"{size_bytes:.0f} B"


def byte_unit(size_bytes: float) -> tuple[int, str]:
    """The prefix that `byte_text` shows such a size with: (10**6, "MB")."""
    prefixes = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
    return next((prefix for prefix in prefixes if abs(size_bytes) >= prefix[0]), (1, "B"))


def percent(share: float | None, digits: int = 1) -> str:
    """0.928 → "92.8 %", whose space does not break."""
    return "–" if share is None else f"{share * 100:.{digits}f}\N{NO-BREAK SPACE}%"


FRACTIONS = ("accuracy", "accuracy_norm", "agreement", "mean_iou", "not_finite")  # metrics shown in per cent


def measured_text(value: float | None, metric: str, digits: int = 2) -> str:
    """A metric's value, in per cent where it is a share; None is what NaN and infinity are kept as."""
    if value is None:
        return "not finite"
    return percent(value, digits) if metric in FRACTIONS else significant(value, ".4g")


def significant(value: float, form: str = ".3g") -> str:
    """Three digits of what may be tiny: "0.213", "1.08e-5"."""
    return f"{value:{form}}".replace("e-0", "e-")


def lowered(title: str) -> str:
    """A title within a sentence: "Accuracy" → "accuracy", "KL divergence" and "R²" stay."""
    return title if title[1:2].isupper() or not title[1:2].isalpha() else title[:1].lower() + title[1:]


def three_digits(value: float) -> str:
    size = abs(value)
    return f"{value:.2f}" if size < 10 else f"{value:.1f}" if size < 100 else f"{value:.0f}"
