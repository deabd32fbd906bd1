"""Started as a script: ties a process to its parent, then becomes the command.

    python -I -S parent_death.py SIGNAL PARENT_PID OOM_SCORE COMMAND...

The kernel sends SIGNAL when the thread that started it dies, also by kill -9. Memory is taken from the process with
the highest OOM_SCORE first, so the compressing child dies before its worker. Both are Linux's; elsewhere the child
still leaves when its stdin ends.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(signal_number: int, parent: int, oom_score: str) -> None:
    """Puts this process on it. Leaves when the parent has died before."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal_number)
        if os.getppid() != parent:
            sys.exit("the parent is gone")
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(oom_score)
        except OSError:
            pass  # not permitted here; only a preference is lost


def main() -> None:
    signal_number, parent, oom_score, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    die_with_parent(signal_number, parent, oom_score)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
