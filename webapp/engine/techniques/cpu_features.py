"""What the processor of this machine can do with 8-bit integers."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


@cache
def instructions() -> frozenset[str]:
    """The names of its instruction sets, as the system tells them: "avx2", "avx512_vnni"; none where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def saturates() -> bool:
    """Whether two products of unsigned and signed 8 bits may overflow the 16 bits that they are added in.

    So do x86 processors without VNNI (vpmaddubsw); weights of 7 bits cannot make them.
    """
    known = instructions()
    return platform.machine() in ("x86_64", "AMD64") and not {"avx512_vnni", "avx_vnni"} & known
