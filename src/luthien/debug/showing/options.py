"""How a reader wants to see a diff. All of it is in the address of the page, changed by plain links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias
from urllib.parse import urlencode

Layout: TypeAlias = Literal["unified", "side", "raw"]
LAYOUTS: tuple[tuple[Layout, str], ...] = (("unified", "Unified"), ("side", "Side by side"), ("raw", "Raw"))
_OURS = frozenset({"layout", "whitespace", "exact", "unfold"})


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """Layout; `whitespace`: shown as marks; `exact`: raw as it passed, not laid out; `unfold`: the anchor of a folded
    part, too big to be on every page, that is to be there.

    `others` are the page's own query parameters, which each link keeps.
    """

    layout: Layout = "unified"
    whitespace: bool = False
    exact: bool = False
    unfold: str = ""
    others: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_query(cls, params: Mapping[str, str]) -> DiffOptions:
        """What an address asks for; what it does not say, or says wrongly, is as if it were not there."""
        multi = getattr(params, "multi_items", None)
        pairs: list[tuple[str, str]] = list(multi() if multi is not None else params.items())
        named: list[Layout] = [layout for layout, _ in LAYOUTS if layout == params.get("layout")]
        return cls(
            layout=named[0] if named else "unified",
            whitespace=params.get("whitespace") == "1",
            exact=params.get("exact") == "1",
            unfold=params.get("unfold", ""),
            others=tuple((key, value) for key, value in pairs if key not in _OURS),
        )

    def query(self) -> str:
        """These options as the query of an address, with its question mark; defaults are left out."""
        pairs = list(self.others)
        if self.layout != "unified":
            pairs.append(("layout", self.layout))
        pairs += [(name, "1") for name in ("whitespace", "exact") if getattr(self, name)]
        if self.unfold:
            pairs.append(("unfold", self.unfold))
        return "?" + urlencode(pairs, errors="replace")

    def with_layout(self, layout: Layout) -> DiffOptions:
        return replace(self, layout=layout, unfold="")

    def with_whitespace(self, whitespace: bool) -> DiffOptions:
        return replace(self, whitespace=whitespace)

    def with_exact(self, exact: bool) -> DiffOptions:
        return replace(self, exact=exact)

    def with_unfold(self, anchor: str) -> DiffOptions:
        return replace(self, unfold=anchor)

    def unfolding(self, anchor: str) -> str:
        """The link that shows a folded part, and leads to it."""
        return replace(self, unfold=anchor).query() + "#" + anchor
