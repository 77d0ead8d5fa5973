"""Run by a node that a launcher started: it ends when its launcher does, however that ended.

A node that outlived its launcher would hold the ports that the next launch wants. It is killed, not drained:
the next launch must find the place empty, and a node may be killed at any moment without losing what was
acked. On Linux the kernel does it, which also reaches a frozen node; elsewhere, and besides, the node
notices that the pipe on its standard input has ended.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import MutableMapping
from typing import Final

VARIABLE: Final = "HUBBUB_LAUNCHER"  # the launcher's process id, for its children only
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>


def tie_to_launcher(environ: MutableMapping[str, str]) -> None:
    """Die with the launcher that `environ` names, if it names one. Call it first, from the main thread."""
    launcher = environ.pop(VARIABLE, "")
    if not launcher.isdigit():
        return
    if sys.platform == "linux":
        # Counts from the thread that started this process: the launcher forks in its main thread only.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(launcher):  # it ended before we could ask
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=_follow_stdin, name="leash", daemon=True).start()


def _follow_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
