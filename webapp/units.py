"""Numbers as people read them. MB is 10^6 bytes."""

from __future__ import annotations


def byte_text(size_bytes: float) -> str:
    """ "512 B", "14.2 kB", "3.40 MB", "1.25 GB": three digits, decimal prefixes."""
    for divisor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if abs(size_bytes) >= divisor:
            return f"{three_digits(size_bytes / divisor)} {unit}"
    return f"{size_bytes:.0f} B"


def lowered(title: str) -> str:
    """A title within a sentence: "Accuracy" → "accuracy", "KL divergence" stays."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def three_digits(value: float) -> str:
    size = abs(value)
    return f"{value:.2f}" if size < 10 else f"{value:.1f}" if size < 100 else f"{value:.0f}"
