"""The request of one side as a command for a POSIX shell that sends it again.

Every key is a variable of the environment. What stands in the command is printable: a body with anything else in it,
or one that is too long for a command line, is carried in base64. The bytes that curl sends are those of the record.
"""

from __future__ import annotations

import base64
import shlex
import textwrap

from luthien.debug.export.parties import Asked, Party
from luthien.debug.showing.invisible import is_visible
from luthien.formats.credentials import MASK

GATEWAY_KEY = "LUTHIEN_KEY"
_KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
# Linux takes 131,072 bytes as one argument, and a quote may become five of them.
_MAX_ARGUMENT_BYTES = 100_000
# What curl sends unless it is told otherwise.
_CURLS_OWN = ("accept", "content-type", "user-agent")
_END = "END_OF_BODY"


def as_curl(asked: Asked) -> str:
    """The command, and before it a line that does nothing for each thing that is not as it was sent."""
    body, notes, here = _body(asked)
    words = [
        *(["curl", "-sSN", "-g"] if here is None else ["base64", "-d", f"<<'{_END}'", "|", "curl", "-sSN", "-g"]),
        *([] if asked.method == "POST" else ["-I"] if asked.method == "HEAD" else ["-X", shlex.quote(asked.method)]),
        "--path-as-is",
        shlex.quote(asked.url),
    ]
    options = [f"-H {header}" for header in _headers(asked)]
    command = " \\\n  ".join([" ".join(words), *options, *body])
    # Not with a #, which the shell of a Mac takes for a command when it is typed.
    comments = [f": {shlex.quote(_shown(note))}" for note in notes]
    return "\n".join([*comments, command, *([] if here is None else [here, _END])]) + "\n"


def _body(asked: Asked) -> tuple[list[str], list[str], str | None]:
    """The options that send the body, what is to be said of it, and what follows the command: it in base64."""
    data, notes = asked.body, [*asked.notes]
    if not data:
        return [], notes, None
    pieces = _plain(data, asked.is_masked)
    if pieces is None:
        if asked.is_masked:
            notes.append(f"put them in the place of {MASK} in the body, which is in base64")
        return ["--data-binary @-"], notes, "\n".join(textwrap.wrap(base64.b64encode(data).decode(), 76))
    names = [f"MASKED_CREDENTIAL_{place}" for place in range(1, len(pieces))]
    if names:
        notes.append(f"they come from {', '.join(names)}, in the order of the body")
    quoted = shlex.quote(pieces[0]) + "".join(
        f'"${name}"{shlex.quote(piece)}' for name, piece in zip(names, pieces[1:], strict=True)
    )
    return [f"--data-raw {quoted}"], notes, None


def _plain(data: bytes, is_masked: bool) -> list[str] | None:
    """The body between its masked credentials; None when it cannot stand in a command as it is."""
    if len(data) > _MAX_ARGUMENT_BYTES:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    # What is shown otherwise could not be copied, and a terminal would take a tab for a wish.
    if "\t" in text or "\r" in text or not is_visible(text):
        return None
    pieces = text.split(MASK) if is_masked else [text]
    length = sum(len(shlex.quote(piece).encode()) for piece in pieces)
    return pieces if length <= _MAX_ARGUMENT_BYTES and len(pieces) <= 100 else None


def _headers(asked: Asked) -> list[str]:
    """The recorded headers, the key, and that curl is not to add its own."""
    names = {name for name, _ in asked.headers}
    key = f"${_key(asked)}"
    if asked.provider == "anthropic":
        shown = [f'"x-api-key: {key}"']
    else:
        shown = [f'"authorization: Bearer {key}"']
    kept = [_header(name, value) for name, value in asked.headers]
    unasked = [f"'{name}:'" for name in _CURLS_OWN if name not in names]
    return [*shown, *kept, *unasked, *(["'expect:'"] if asked.body else [])]


def _key(asked: Asked) -> str:
    if asked.party is Party.CLIENT and asked.gateway_key is not None:
        return GATEWAY_KEY
    return _KEYS.get(asked.provider, "API_KEY")


def _header(name: str, value: str) -> str:
    """One argument; with the bytes that the header had, which are those of latin-1."""
    text = f"{name}: {value}" if value else f"{name};"
    if text.isascii() and text.isprintable():
        return shlex.quote(text)
    octal = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and chr(byte) not in "%\\'" else f"\\{byte:03o}"
        for byte in text.encode("latin-1", "replace")
    )
    return f"\"$(printf '{octal}')\""


def _shown(note: str) -> str:
    """A note on one line, where nothing of it is invisible."""
    return "".join(character if is_visible(character) else "?" for character in " ".join(note.split()))
