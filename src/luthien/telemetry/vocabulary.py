"""The values that an attribute of metrics may have: each makes series that the process keeps for ever."""

from __future__ import annotations

from luthien.telemetry import conventions as names
from luthien.telemetry.spans import clean_name

MAX_WORDS = 200
MAX_MODELS = 100
MAX_UNPROVEN_MODELS = 20


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

    def forget(self, word: str) -> None:
        """Makes room: somebody else counts the word now."""
        self._words.discard(word)


class ModelNames:
    """The names of models that clients ask for: those that a provider answered for, and a few others.

    Whoever makes names up can use up the others, and nobody else's: a name becomes one of its own once it is answered
    for. A gateway whose provider is away from the start still tells its first few apart.
    """

    def __init__(self, max_proven: int = MAX_MODELS, max_unproven: int = MAX_UNPROVEN_MODELS) -> None:
        self._max_proven = max_proven
        self._unproven = Vocabulary(max_unproven)
        self._proven: set[str] = set()

    def of(self, name: str) -> str:
        """The name as it may stand on a metric now."""
        clean = clean_name(name)
        return clean if clean in self._proven else self._unproven.of(clean)

    def prove(self, name: str) -> None:
        """A provider answered for it."""
        clean = clean_name(name)
        if clean not in self._proven and len(self._proven) < self._max_proven:
            self._proven.add(clean)
            self._unproven.forget(clean)
