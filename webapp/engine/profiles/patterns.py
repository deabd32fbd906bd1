"""Few and short patterns that match exactly the layers that are wanted, as `recipe.matches` reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from webapp.engine.facts import LayerFacts

SPECIAL = re.compile(r"([*?[])")
NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # a whole part of a dotted name


def escaped(name: str) -> str:
    """A pattern that matches this name only."""
    return SPECIAL.sub(r"[\1]", name)


class Patterns:
    """Which `*.tail`, `head.*` and whole names match which of some layers. Sets of layers are bits of an int."""

    def __init__(self, layers: Sequence[LayerFacts]) -> None:
        self.layers = layers
        self.bits = {layer.name: 1 << number for number, layer in enumerate(layers)}
        found: dict[str, int] = {}
        for layer in layers:
            for name in (layer.name, *layer.aliases):
                for pattern in _starred(name):
                    found[pattern] = found.get(pattern, 0) | self.bits[layer.name]
        shortest: dict[int, str] = {}  # of those that match the same
        for pattern, bits in found.items():
            if bits.bit_count() > 1 and len(pattern) < len(shortest.get(bits, pattern + "*")):
                shortest[bits] = pattern
        self.starred = sorted(shortest.items(), key=lambda pair: len(pair[1]))

    def of(self, names: Iterable[str]) -> int:
        found = 0
        for name in names:
            found |= self.bits[name]
        return found

    def cover(self, wanted: int, others: int) -> list[str]:
        """Patterns that match all `wanted` layers, none of the `others`, and whatever else."""
        if wanted and not others:
            return ["*"]
        found, left = [], wanted
        fitting = [(bits & wanted, pattern) for bits, pattern in self.starred if bits & wanted and not bits & others]
        while left and fitting:
            bits, pattern = max(fitting, key=lambda each: (each[0] & left).bit_count())
            if (bits & left).bit_count() < 2:
                break
            found.append(pattern)
            left &= ~bits
        while left:
            lowest = left & -left
            found.append(escaped(self.layers[lowest.bit_length() - 1].name))
            left ^= lowest
        return merged(found)

    def columns(self, wanted: int) -> list[tuple[int, str]]:
        """The patterns `*.tail` that match several of them, whatever number their names hold."""
        tailed = ((bits, pattern) for bits, pattern in self.starred if not NUMBER.search(pattern[2:]))
        return [
            (bits & wanted, pattern)
            for bits, pattern in tailed
            if pattern[0] == "*" and (bits & wanted).bit_count() > 1
        ]


def _starred(name: str) -> Iterator[str]:
    parts = [escaped(part) for part in name.split(".")]
    for at in range(1, len(parts)):
        yield ".".join(parts[:at]) + ".*"
        yield "*." + ".".join(parts[at:])


def merged(patterns: Iterable[str]) -> list[str]:
    """The same matches in fewer patterns: those that differ in one number become classes of digits, `1[0-4]`."""
    found: list[str] = []
    apart: dict[tuple[str, str], list[str]] = {}
    for pattern in patterns:
        number = NUMBER.search(pattern)
        if number is None:
            found.append(pattern)
        else:
            apart.setdefault((pattern[: number.start()], pattern[number.end() :]), []).append(number[0])
    return found + [head + each + tail for (head, tail), numbers in apart.items() for each in _classes(numbers)]


def _classes(numbers: Iterable[str]) -> list[str]:
    """Patterns of exactly these whole numbers."""
    endings: dict[str, list[str]] = {}
    for number in numbers:
        endings.setdefault(number[:-1], []).append(number[-1])
    alike: dict[tuple[str, str], list[str]] = {}  # (what both begin with, class of the last digit) -> digits between
    for start, digits in endings.items():
        alike.setdefault((start[:-1], _class(digits)), []).append(start[-1:])
    found = []
    for (start, last), between in alike.items():
        found += [start + _class([digit for digit in between if digit]) + last] if any(between) else []
        found += [start + last] if "" in between else []
    return found


def _class(digits: Iterable[str]) -> str:
    """ "4", "[46]", "[0-4]"."""
    ordered = sorted(set(digits))
    if len(ordered) < 2:
        return "".join(ordered)
    text = ""
    for _, run in groupby(enumerate(ordered), key=lambda pair: int(pair[1]) - pair[0]):
        row = [digit for _, digit in run]
        text += f"{row[0]}-{row[-1]}" if len(row) > 2 else "".join(row)
    return f"[{text}]"
