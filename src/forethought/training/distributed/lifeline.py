"""What ties the processes of a training to the one that runs its stage."""

from __future__ import annotations

import os
import threading


def end_with_parent() -> None:
    """End this process when its standard input ends.

    All processes of a training inherit it, one end of a pair of sockets. The one that runs the
    stage holds the other end and writes nothing: the input ends when that process closes it or is
    gone, however it went. So none trains on in a directory that another attempt has taken over.
    """

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
