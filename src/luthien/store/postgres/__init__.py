"""One Postgres server of our own, from the bottom up:

    leash.py        starts a program that does not outlive us
    child.py        a program started so: its log, its end
    pginstall.py    which binaries, as whom, and where the data lives
    cluster.py      a data directory: its layout, and how it comes to be
    postmaster.py   what a data directory says about the server in it
    server.py       the server of a data directory: started, or what is left of it ended

`luthien.store.embedded` decides which of several Luthien processes does all that.
"""

from __future__ import annotations

from luthien.errors import StoreError


class EmbeddedPostgresError(StoreError):
    """The embedded Postgres cannot be started, shared or stopped; the message says what to do."""
