"""Ports of this machine that are chosen before anybody listens at them."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port at which nobody listens, and which the system gives to nobody else until the block is left.

    Who asks for it by its number with `SO_REUSEADDR`, as servers do, gets it all the same: Linux lets them share it
    with who does not listen. Elsewhere it is only a port that was free a moment ago.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        if sys.platform != "linux":
            holder.close()
        yield port
