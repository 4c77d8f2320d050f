"""Writing: the segments of this process, one after the other, on a disk that may fail."""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

from luthien.record.folder import Folder, Segment

_log = logging.getLogger(__name__)

_RETRY_S = 1.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Journal:
    """Belongs to the spool's thread; `trouble` may be read by any.

    Args:
        root: where the folders of all processes are.
        process_id: who we are.
        segment_bytes: a segment is sealed when it has so many.
        sync: whether records survive a loss of power, too.
        on_sealed: told of each segment that is not written to any longer.
    """

    def __init__(
        self, root: Path, process_id: UUID, segment_bytes: int, on_sealed: Callable[[Segment], None], *, sync: bool
    ) -> None:
        self._root = root
        self._process_id = process_id
        self._segment_bytes = segment_bytes
        self._on_sealed = on_sealed
        self._sync = sync
        self._folder: Folder | None = None
        self._segment: Segment | None = None
        self._retry_at_s = 0.0
        self.trouble: str | None = None
        """Why nothing can be written: `disk_full`, `disk_failed`; None while all is well."""

    def segment(self) -> Segment | None:
        """The segment to write to; None while the disk is in trouble, which is looked at again every second."""
        if self._segment is not None and self._segment.size_bytes < self._segment_bytes:
            return self._segment
        if self.trouble is not None and time.monotonic() < self._retry_at_s:
            return None
        self.seal()
        try:
            self._segment = self._new_segment()
        except OSError as error:
            self._say_trouble(error)
        return self._segment

    def append(self, segment: Segment, parts: Sequence[bytes]) -> bool:
        """Hands frames to the kernel, all or, as far as anybody will see, none; says whether it could.

        A segment that failed is sealed. When it was a new one, that is trouble; else the next may do better.
        """
        is_new = segment.size_bytes == 0
        try:
            segment.append(parts, sync=self._sync)
        except OSError as error:
            self.seal()
            if is_new:
                self._say_trouble(error)
            return False
        if self.trouble is not None:
            self.trouble = None
            _log.warning("the spool can be written again: records survive a crash of the process")
        return True

    def seal(self) -> None:
        segment, self._segment = self._segment, None
        if segment is None:
            return
        with contextlib.suppress(OSError):  # what it holds is with the kernel, or was not acknowledged
            segment.seal()
        self._on_sealed(segment)

    def release(self) -> None:
        """Gives the folder back, with what is in it."""
        if self._folder is not None:
            self._folder.release()
            self._folder = None

    def close_in_child(self) -> None:
        """Closes a forked child's copies of the files, so that the lock dies with the parent."""
        if self._folder is not None:
            self._folder.close()
        if self._segment is not None:
            self._segment.seal()

    def _new_segment(self) -> Segment:
        if self._folder is not None:
            with contextlib.suppress(FileNotFoundError):
                return self._folder.new_segment(sync=self._sync)
            self._folder.close()  # somebody removed it
        self._folder = Folder.create(self._root, self._process_id, sync=self._sync)
        return self._folder.new_segment(sync=self._sync)

    def _say_trouble(self, error: OSError) -> None:
        self._retry_at_s = time.monotonic() + _RETRY_S
        trouble = "disk_full" if error.errno in _FULL else "disk_failed"
        if self.trouble != trouble:
            self.trouble = trouble
            _log.error("the spool cannot be written, records wait in memory and are not crash-proof: %s", error)
