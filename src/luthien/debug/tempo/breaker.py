"""When Tempo is not asked: after some failures in a row it is left alone for a while. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FAILURES = 3
REST_S = 10.0
MOST_REST_S = 60.0
_WHILE_TRIED_S = 1.0


class Resting(Exception):
    """Tempo is not asked now; says why not, and in how many seconds it is again."""

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.seconds = seconds


class Failure(Exception):
    """Tempo, or what stands in its place, failed; says how."""


class Breaker:
    """Lets questions through until some in a row have failed, then none for a while, then one to see.

    Each time that this one fails, too, the while is twice as long, up to a minute.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._rest_s = REST_S
        self._asked_again_at: float | None = None
        self._is_tried = False
        self._reason = ""

    @contextmanager
    def question(self) -> Iterator[None]:
        """Around one question. An answer of any kind closes the circuit; one that was given up changes nothing.

        Raises:
            Resting: the question is not to be asked.
            Failure: as it came.
        """
        is_trial = self._admit()
        self._is_tried = self._is_tried or is_trial
        try:
            yield
        except Failure as failure:
            self._failed(str(failure), is_trial=is_trial)
            raise
        else:
            self._failures, self._rest_s, self._asked_again_at = 0, REST_S, None
        finally:
            if is_trial:
                self._is_tried = False

    def _admit(self) -> bool:
        """Whether this is the one question that is to show how Tempo is."""
        if self._asked_again_at is None:
            return False
        rest_s = self._asked_again_at - self._clock()
        if rest_s > 0:
            raise Resting(self._reason, rest_s)
        if self._is_tried:
            raise Resting(self._reason, _WHILE_TRIED_S)
        return True

    def _failed(self, reason: str, *, is_trial: bool) -> None:
        self._failures += 1
        self._reason = reason
        if is_trial:
            self._rest_s = min(2 * self._rest_s, MOST_REST_S)
        if is_trial or (self._failures >= FAILURES and self._asked_again_at is None):
            self._asked_again_at = self._clock() + self._rest_s
