"""One line in the log for each call that did not end as it should, or for each call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from luthien.exchange import Outcome
from luthien.telemetry import conventions as names

_log = logging.getLogger("luthien.calls")

_BURST = 20
_PER_S = 1.0
_WARNINGS = frozenset({Outcome.UPSTREAM_ERROR, Outcome.POLICY_ERROR})


class CallLog:
    """Says how calls ended, in scalars alone: no reason, no message and nothing else that may quote a payload.

    Requests that are rejected come from anybody, as fast as they can be sent: of those that came without a gateway
    key, 20 at once and then one a second have a line, which says how many before it had none.

    Args:
        which: `unusual` (all but completed), `all` or `none`.
        clock: seconds that never go back.
    """

    def __init__(self, which: str = "unusual", clock: Callable[[], float] = time.monotonic) -> None:
        self._outcomes = frozenset(Outcome) if which != "none" else frozenset()
        if which == "unusual":
            self._outcomes -= {Outcome.COMPLETED}
        self._clock = clock
        self._left = float(_BURST)
        self._counted_at = clock()
        self._left_out = 0

    def tells(self, outcome: Outcome, has_key: bool) -> bool:
        """Whether a call that ends now is told of; if not, nothing needs to be gathered about it."""
        if outcome not in self._outcomes or not _log.isEnabledFor(_level(outcome)):
            return False
        if outcome is not Outcome.REJECTED or has_key:
            return True
        now = self._clock()
        self._left = min(_BURST, self._left + (now - self._counted_at) * _PER_S)
        self._counted_at = now
        if self._left < 1:
            self._left_out += 1
            return False
        self._left -= 1
        return True

    def tell(self, call_id: object, outcome: Outcome, facts: Mapping[str, Any]) -> None:
        """Writes the line; `facts` are named by `telemetry.conventions`, and a None among them is left out."""
        said = {name: value for name, value in facts.items() if value is not None}
        said |= {names.LOG_EVENT: names.CALL_ENDED, names.OUTCOME: outcome.value}
        after = ""
        if outcome is Outcome.REJECTED and self._left_out:
            said[names.CALLS_LEFT_OUT], self._left_out = self._left_out, 0
            after = f"; {said[names.CALLS_LEFT_OUT]} rejected before it have no line"
        _log.log(
            _level(outcome),
            "%s%s: call %s, %s, status %s, after %.0f ms%s",
            outcome.value,
            f" ({said[names.ERROR_TYPE]})" if names.ERROR_TYPE in said else "",
            call_id,
            said.get(names.WIRE_FORMAT),
            said.get(names.HTTP_STATUS, "none"),
            said.get(names.DURATION_MS, 0.0),
            after,
            extra=said,
        )


def _level(outcome: Outcome) -> int:
    return logging.WARNING if outcome in _WARNINGS else logging.INFO
