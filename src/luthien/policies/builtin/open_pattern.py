"""Regular expressions for text that has not arrived in full yet.

The engine's partial matching finds the first attempt that runs into the end of the text, but prefers a match to
it. So an open pattern never matches: an attempt that would have succeeded is cut off (it is decided, whatever
comes), and one that meets the end before it could succeed is what is found. What looks at a place without reading
there is made to ask for a character first.
"""

from __future__ import annotations

import regex

_TOKEN = regex.compile(
    r"""
      (?P<backreference> \\[1-9]\d* | \\g<\w+> | \(\?P=\w+\) )
    | (?P<assertion>     \\[bBmMAZz] | [$^] )
    | (?P<character>     \\[pP]\{[^{}]*\} | \\N\{[^{}]*\} | \\[dDwWsSntrfvahRpPxuU0] | \\[^a-zA-Z0-9]
                       | \[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\] )
    | (?P<flags>         \(\?[ims]*(?:-[ims]+)?\) )
    | (?P<lookbehind>    \(\?<[=!] )
    | (?P<lookahead>     \(\?[=!] )
    | (?P<group>         \(\?(?::|>|P?<\w+>|[ims]*(?:-[ims]+)?:) | \((?![?*]) )
    | (?P<repeat>        (?: [*+?] | \{(?P<least>\d*)(?P<range>,(?P<most>\d*))?\} )[+?]? )
    | (?P<strange>       \(\?..? | \(\* | \{ | \\. )
    | (?P<plain>         . )
    """,
    regex.VERBOSE | regex.DOTALL,
)
_FLAGS = regex.compile(r"(?:\(\?[aimsu]+\))?")
_UNBOUNDED = 1 << 32
_MORE = r"(?=[\s\S])"
# `$` also looks past the newline at the very end.
_MORE_THAN_NEWLINE = r"(?=\n?[\s\S])"
# Holds nowhere.
_NEVER = r"(?<=[\s\S]\A)"


class OpenPattern:
    """What a pattern could still match, given more text.

    Covered are characters and their classes, groups (also named and atomic), alternatives, every repeat,
    backreferences, the assertions `^ $ \\b \\B \\m \\M \\A \\Z`, lookaheads, lookbehinds of bounded length, and the
    flags `i m s`, and `a u` at the very beginning.

    Raises:
        ValueError: the pattern uses anything else, such as recursion, fuzzy matching, conditionals, `\\G`, `\\K`,
            `\\X` or the flags `b e f p r w x V1`; or a lookbehind repeats without bound, looks ahead or refers
            back.
    """

    def __init__(self, pattern: str) -> None:
        self.lookbehind_chars = 0
        """How far back of where it begins a match may look."""
        flags = _FLAGS.match(pattern)
        self._tokens = _TOKEN.finditer(pattern, flags.end())
        self._open: list[str] = []
        self._lookbehinds = 0
        self._read_group()
        self.pattern = regex.compile(f"{flags.group()}(?>{''.join(self._open)}){_NEVER}")

    def _read_group(self) -> int:
        """Reads to the end of a group; returns how many characters it can match or look at, at most."""
        widest = width = last = 0
        for token in self._tokens:
            text = token.group()
            if token.lastgroup == "repeat":
                last, width = last * _most(token), width + last * (_most(token) - 1)
            elif text == "|":
                widest, width, last = max(widest, width), 0, 0
            elif text != ")":
                width += (last := self._read_item(token.lastgroup, text))
                continue
            self._open.append(text)
            if text == ")":
                break
        return max(widest, width)

    def _read_item(self, kind: str | None, text: str) -> int:
        if kind == "strange":
            advice = r"; write \{ for a brace" if text == "{" else ""
            raise ValueError(f"{text} is not supported in a pattern{advice}")
        if self._lookbehinds:
            self._check_in_lookbehind(kind, text)
            self._open.append(text)
        elif kind in {"assertion", "lookbehind"}:
            self._open += (_MORE_THAN_NEWLINE if text == "$" else _MORE, text)
        elif kind == "backreference":
            self._open.append(f"(?:{_MORE}{text})")
        elif kind == "group":
            # At the end of the text the engine would not say that a group could be repeated.
            self._open += (text, _MORE)
        else:
            self._open.append(text)
        if kind in {"group", "lookahead"}:
            return self._read_group()
        if kind == "lookbehind":
            return self._read_lookbehind()
        if kind in {"character", "plain"}:
            return 2 if text == r"\R" else 1
        return 0

    def _read_lookbehind(self) -> int:
        self._lookbehinds += 1
        width = self._read_group()
        self._lookbehinds -= 1
        if width >= _UNBOUNDED:
            raise ValueError("a lookbehind must not repeat anything without bound")
        self.lookbehind_chars = max(self.lookbehind_chars, width)
        return width

    def _check_in_lookbehind(self, kind: str | None, text: str) -> None:
        if kind in {"backreference", "lookahead"} or (kind == "assertion" and text not in {"^", r"\A"}):
            raise ValueError(f"{text} is not supported in a lookbehind")


def _most(repeat: regex.Match[str]) -> int:
    if repeat.group()[0] == "?":
        return 1
    if repeat["range"] is None:
        return int(repeat["least"]) if repeat["least"] else _UNBOUNDED
    return int(repeat["most"]) if repeat["most"] else _UNBOUNDED
