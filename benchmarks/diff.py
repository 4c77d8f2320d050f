"""What does a diff cost, and what is the worst that a payload can make it cost?

    python -m benchmarks.diff [--rounds N] [--only PART-OF-NAME]

CPU time of `diff_payloads` beside that of reading both payloads with `json.loads`, in one process and in turn; the
least of some rounds of each. First a conversation of 200 messages and 1 MB, as it is changed in practice, then
payloads made to be as bad as they can be, each with 30 MB on both sides where that makes it worse. Ends with exit
status 1 if one of the first takes more than 40 ms, or one of the second more than 2 s.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeAlias

from luthien.debug.diff import diff_payloads

USUAL_S = 0.04
WORST_S = 2.0
_SIZE = 30_000_000

Pair: TypeAlias = tuple[bytes, bytes]
_WORDS = [
    f"{a}{b}" for a in ("re", "con", "de", "pro", "in", "sub") for b in ("form", "vent", "duct", "tain", "ject")
]


def _encoded(before: Any, after: Any) -> Pair:
    return json.dumps(before).encode(), json.dumps(after).encode()


def _conversation(chance: random.Random, count: int, words: int) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": " ".join(chance.choices(_WORDS, k=words))} for n in range(count)]


def usual() -> Iterator[tuple[str, Pair]]:
    """200 messages, 1 MB, and one change."""
    chance = random.Random(1)
    before = _conversation(chance, 200, 750)

    def against(after: Any) -> Pair:
        return _encoded({"model": "m", "messages": before}, {"model": "m", "messages": after})

    edited = {**before[100], "content": before[100]["content"].replace("reform", "changed", 1)}
    yield "a word of one message", against([*before[:100], edited, *before[101:]])
    yield "a system message on top", against([{"role": "system", "content": "be kind"}, *before])
    yield "a message taken out", against([*before[:100], *before[101:]])
    yield "a message moved", against([*before[:50], *before[51:150], before[50], *before[150:]])
    yield "a message rewritten", against([*before[:100], {"role": "user", "content": "no"}, *before[101:]])
    parts = [{"type": "text", "text": before[100]["content"]}]
    yield "a message in parts", against([*before[:100], {**before[100], "content": parts}, *before[101:]])
    yield "another model", _encoded({"model": "m", "messages": before}, {"model": "n", "messages": before})


def _strings(text: str, other: str) -> Pair:
    return _encoded(
        {"messages": [{"role": "user", "content": text}]}, {"messages": [{"role": "user", "content": other}]}
    )


def _spread(element: Callable[[int, int], Any], count: int) -> Pair:
    return _encoded(
        {"messages": [element(0, n) for n in range(count)]}, {"messages": [element(1, n) for n in range(count)]}
    )


def worst() -> Iterator[tuple[str, Callable[[], Pair]]]:
    """Payloads that are hard in one way each."""
    chance = random.Random(2)

    def words(count: int) -> str:
        return " ".join(chance.choices(_WORDS, k=count))

    def lines(count: int) -> str:
        return "\n".join(chance.choices(_WORDS, k=count))

    def noise(count: int) -> str:
        return "".join(chance.choices("abcdefgh ", k=count))

    def message(chars: int) -> Callable[[int, int], Any]:
        text = noise(_SIZE // 4)
        return lambda side, n: {
            "role": "user",
            "content": (lambda at: text[at : at + chars])(hash((side, n)) % (len(text) - chars)),
        }

    def arguments(side: int, n: int) -> Any:
        return json.dumps({"path": n, "side": side, "lines": [n, side, n + side], "text": "ab " * 20})

    def scalars(of: Callable[[], Any], count: int) -> Callable[[], Pair]:
        return lambda: _encoded([of() for _ in range(count)], [of() for _ in range(count)])

    def nested(opening: str, closing: str, count: int, depth: int) -> Callable[[], Pair]:
        def make() -> Pair:
            one = [f"{opening * depth}{n}{closing * depth}" for n in range(count)]
            other = [f"{opening * depth}{n + 1}{closing * depth}" for n in reversed(range(count))]
            return f"[{','.join(one)}]".encode(), f"[{','.join(other)}]".encode()

        return make

    def spine(depth: int, width: int) -> Callable[[], Pair]:
        def make() -> Pair:
            values: list[Any] = ["one", "two"]
            for _ in range(depth):
                values = [[*({"a": n, "b": [n]} for n in range(width)), value, "end"] for value in values]
            return _encoded(*values)

        return make

    yield "one string, 30 MB, every word another", lambda: _strings(words(_SIZE // 7), words(_SIZE // 7))
    yield "one string, 30 MB, every line another", lambda: _strings(lines(_SIZE // 7), lines(_SIZE // 7))
    yield "one string, 30 MB, one character", lambda: _strings("a" * _SIZE, "a" * (_SIZE - 1))
    yield "one string, 30 MB, two characters", lambda: _strings("ab" * (_SIZE // 2), "ba" * (_SIZE // 2))
    yield "one string, 30 MB, spaces", lambda: _strings("a " * (_SIZE // 2), "a  " * (_SIZE // 3))
    yield "one string, 400 kB, noise", lambda: _strings(noise(399_000), noise(399_000))
    yield "one string, 400 kB, punctuation", lambda: _strings(".," * 199_000, ",." * 150_000)
    yield "one string, 400 kB, marks to order", lambda: _strings("e\u0301\u0327" * 130_000, "e\u0327\u0301" * 130_000)
    yield "100 strings of 300 kB", lambda: _spread(message(300_000), 100)
    yield "1,000 strings of 30 kB", lambda: _spread(message(30_000), 1_000)
    yield "10,000 messages of 3 kB", lambda: _spread(message(3_000), 10_000)
    yield "50,000 messages of 500 bytes", lambda: _spread(message(500), 50_000)
    yield (
        "4,000 messages, much alike",
        lambda: _spread(lambda side, n: {"role": "user", "content": f"{' '.join(_WORDS)} {n % 7} {side}"}, 4_000),
    )
    yield (
        "2,000 messages, each changed a little",
        lambda: _spread(lambda side, n: {"role": "user", "content": f"{' '.join(_WORDS)} {n} {side}"}, 2_000),
    )
    yield "lists of lists, 17 by 17", lambda: _spread(lambda side, n: [noise(40) for _ in range(17)], 3_000)
    yield "150,000 strings", scalars(lambda: noise(200), 150_000)
    yield "190,000 strings of few sorts", scalars(lambda: chance.choice(_WORDS), 190_000)
    yield "190,000 numbers", scalars(lambda: chance.random(), 190_000)
    yield "190,000 numbers, long", scalars(lambda: 10**60 + chance.randrange(10**20), 190_000)
    yield "195,000 bits", scalars(lambda: chance.randrange(2), 195_000)
    yield "9,000 bits", scalars(lambda: chance.randrange(2), 9_000)
    yield "9,000 numbers in another order", lambda: _encoded(list(range(9_000)), chance.sample(range(9_000), 9_000))
    yield (
        "10,000 keys, other values",
        lambda: _encoded({f"key {n}": n for n in range(10_000)}, {f"key {n}": n + 1 for n in range(10_000)}),
    )
    yield (
        "10,000 keys, other keys",
        lambda: _encoded({f"key {n}": n for n in range(10_000)}, {f"other {n}": n for n in range(10_000)}),
    )
    yield (
        "190,000 keys, one value another",
        lambda: _encoded({f"key {n}": n for n in range(190_000)}, {f"key {n}": n or 1.5 for n in range(190_000)}),
    )
    yield (
        "190,000 keys, other values",
        lambda: _encoded({f"key {n}": n for n in range(190_000)}, {f"key {n}": n + 1 for n in range(190_000)}),
    )
    yield (
        "190,000 keys in another order",
        lambda: _encoded({f"key {n}": n for n in range(190_000)}, {f"key {n}": n for n in reversed(range(190_000))}),
    )
    yield "95,000 empty objects among others", scalars(lambda: {} if chance.random() < 0.5 else {"a": 1}, 95_000)
    yield "lists, 900 deep", nested("[", "]", 200, 900)
    yield "objects, 450 deep", nested('{"a":[', "]}", 200, 450)
    yield "lists, 60 deep", nested("[", "]", 3_200, 60)
    yield "objects, 60 deep", nested('{"a":', "}", 3_200, 60)
    yield "brackets, 30 MB", lambda: (b"[" * _SIZE, b"[" * (_SIZE - 1) + b" ")
    yield (
        "brackets of every depth, 30 MB",
        lambda: (
            b"[" + (b"[" * 900 + b"]" * 900 + b",") * 16_000 + b"1]",
            b"[" + (b"[" * 899 + b"]" * 899 + b",") * 16_000 + b"1]",
        ),
    )
    yield "quotes that do not end, 30 MB", lambda: (b'["' + b'\\"' * (_SIZE // 2), b'["' + b'\\"' * (_SIZE // 2 - 1))
    yield "a difference at the end of every level", spine(60, 600)
    yield "10,000 strings of JSON", lambda: _spread(arguments, 10_000)
    yield "1,000 strings of JSON", lambda: _spread(arguments, 1_000)
    yield (
        "JSON in JSON in JSON",
        lambda: _spread(
            lambda side, n: json.dumps([json.dumps([json.dumps([json.dumps([side, n, noise(900)])])])]), 1_500
        ),
    )
    yield (
        "a string of JSON, 30 MB",
        lambda: _strings(
            json.dumps([{"a": noise(450)} for _ in range(60_000)]),
            json.dumps([{"a": noise(450)} for _ in range(60_000)]),
        ),
    )
    yield "a number, 30 MB", lambda: (b"[" + b"1" * _SIZE + b"]", b"[" + b"1" * (_SIZE - 1) + b"2]")
    yield "no JSON, 30 MB", lambda: (words(_SIZE // 7).encode(), words(_SIZE // 7).encode())
    yield "bytes, 30 MB", lambda: (b"\xff" * _SIZE, b"\xfe" * _SIZE)


def _cpu_s(work: Callable[[], object]) -> float:
    gc.collect()
    started = time.process_time()
    work()
    return time.process_time() - started


def _read(pair: Pair) -> None:
    for payload in pair:
        with suppress(ValueError, RecursionError):
            json.loads(payload)


def measure(name: str, pair: Pair, rounds: int, limit_s: float) -> bool:
    """Prints a line, and says whether the limit was kept."""
    diffs, reads = list[float](), list[float]()
    for _ in range(rounds):
        reads.append(_cpu_s(lambda: _read(pair)))
        diffs.append(_cpu_s(lambda: diff_payloads(*pair)))
    took_s, found = min(diffs), diff_payloads(*pair)
    told = f"{len(found.ops)} ops{', degraded' if found.degraded else ''}"
    ratio = f"{took_s / min(reads):6.1f}" if min(reads) > 0.001 else "     -"
    print(f"{name:44} {took_s * 1e3:7.1f} ms {ratio} {'TOO SLOW ' if took_s > limit_s else ''}{told}", flush=True)
    return took_s <= limit_s


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diff", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print(f"{'':44} {'CPU':>10} {'/json.loads':>6}")
    kept = [measure(name, pair, options.rounds * 3, USUAL_S) for name, pair in usual() if options.only in name]
    kept += [measure(name, make(), options.rounds, WORST_S) for name, make in worst() if options.only in name]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    raise SystemExit(main())
