"""What a stream violates on its two sides: the provider's mistakes told apart from our own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from luthien.formats.format import WireFormat
from luthien.formats.sse import Chunk
from luthien.formats.validators import validator_of
from luthien.formats.validity import Validator, Violation


@dataclass(slots=True)
class Watch:
    """Counts the rules that one side of a stream breaks."""

    validator: Validator | None
    violations: Counter[str] = field(default_factory=Counter)
    quirks: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, wire_format: WireFormat) -> Watch:
        return cls(validator_of(wire_format))

    def passed(self, chunks: Sequence[Chunk]) -> None:
        if self.validator is not None:
            for chunk in chunks:
                found = self.validator.check(chunk)
                if found:
                    self._count(found)

    def ended(self) -> None:
        """The stream is over, and that was all of it."""
        if self.validator is not None:
            self._count(self.validator.end())
            self.validator = None

    def give_up(self) -> None:
        """There is more of it than anybody puts together."""
        self.validator = None

    def _count(self, found: Sequence[Violation]) -> None:
        for each in found:
            (self.quirks if each.is_quirk else self.violations)[each.rule] += 1

    def beside(self, original: Watch) -> Counter[str]:
        """What is broken here and not there, quirks as well: nobody but us can have done it."""
        broken = self.violations + self.quirks
        return Counter({rule: n for rule, n in broken.items() if rule not in original.violations | original.quirks})
