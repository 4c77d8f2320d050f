"""The values that an attribute of metrics may have: each makes series that the process keeps for ever."""

from __future__ import annotations

from luthien.telemetry import conventions as names
from luthien.telemetry.spans import clean_name

MAX_WORDS = 200


class Vocabulary:
    """The values of an attribute that clients, providers or configurations choose: the first few hundred of them.

    All that come later are `_OTHER`. Values are cleaned and cut first, so what is kept of them is small.
    """

    def __init__(self, max_words: int = MAX_WORDS) -> None:
        self._max_words = max_words
        self._words: set[str] = set()

    def of(self, word: str) -> str:
        """The word as it may stand on a metric."""
        clean = clean_name(word)
        if clean in self._words:
            return clean
        if len(self._words) >= self._max_words:
            return names.OTHER
        self._words.add(clean)
        return clean
