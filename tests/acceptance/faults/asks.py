"""What clients ask for, and the one answer that a provider has to each: both sides compute it from the request."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import asdict, dataclass, replace

from tests.wire import DONE, openai_chunk, openai_request, openai_response


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. The answer has about `answer_bytes`; `chunks` is 0 for a plain one."""

    seed: int
    padding_bytes: int
    answer_bytes: int
    chunks: int = 0
    pause_s: float = 0.0
    """Before each chunk."""
    model: str = "gpt-test"

    def body(self) -> bytes:
        """The request's body, in which the provider finds what it is asked."""
        text = _text(self.seed, self.padding_bytes)
        request = openai_request(text, model=self.model, stream=self.chunks > 0, metadata=asdict(self))
        return json.dumps(request).encode()


def ask_in(body: bytes) -> Ask:
    """What a request asks for."""
    return Ask(**json.loads(body)["metadata"])


def plain(ask: Ask) -> bytes:
    """The body of the answer."""
    return json.dumps(openai_response(_text(~ask.seed, ask.answer_bytes))).encode()


def frames(ask: Ask) -> list[bytes]:
    """The frames of the streamed answer, end marker included."""
    text = _text(~ask.seed, ask.answer_bytes)
    size = max(1, len(text) // ask.chunks)
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    return [*(openai_chunk({"content": piece}) for piece in pieces), openai_chunk({}, "stop"), DONE]


def whole(ask: Ask) -> bytes:
    """All bytes of the answer, as they go over the wire."""
    return b"".join(frames(ask)) if ask.chunks else plain(ask)


def mixed(seed: int) -> Ask:
    """Some of everything: mostly small and plain, some large, a third streamed, some of these slowly."""
    random_ = random.Random(seed)
    padding = random_.choice((50, 500, 2_000, 2_000, 40_000))
    match random_.randrange(12):
        case 0:
            return Ask(seed, padding, 400_000)
        case 1 | 2:
            return Ask(seed, padding, 30_000)
        case 3 | 4 | 5:
            return Ask(seed, padding, 2_000, chunks=20)
        case 6:
            return Ask(seed, padding, 6_000, chunks=60, pause_s=0.02)
        case _:
            return Ask(seed, padding, random_.choice((10, 700, 3_000)))


def quick(seed: int) -> Ask:
    """As `mixed`, without pauses: such a call leaves exactly five records."""
    return replace(mixed(seed), pause_s=0.0)


def slow(seed: int) -> Ask:
    """A stream that is open for a few seconds."""
    return Ask(seed, 100, 6_000, chunks=60, pause_s=0.05)


def endless(seed: int) -> Ask:
    """A stream that outlasts any grace."""
    return Ask(seed, 100, 20_000, chunks=2_000, pause_s=0.05)


def hostile(seed: int) -> Ask:
    """As `mixed`, for models with names that Postgres cannot hold as they are."""
    names = ("\0", "a\0b", "\ud800", "\udfff\ud800", "\ufffe", "m" * 5_000, "\x1b[31m", "'; --", "{}", "\U0001f600")
    return replace(mixed(seed), model=names[seed % len(names)])


def _text(seed: int, size: int) -> str:
    return random.Random(hashlib.sha256(str(seed).encode()).digest()).randbytes((size + 1) // 2).hex()
