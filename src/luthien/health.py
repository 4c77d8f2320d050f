"""Asks a running gateway how it is; for containers, whose images have nothing else to ask with.

    python -m luthien.health                          # is it alive?
    python -m luthien.health /readyz                  # is it ready to record?
    python -m luthien.health http://model:8081/health # anybody else who speaks HTTP

The status is 0 when the answer is 200. It is asked often, so it loads next to nothing of Luthien.
"""

from __future__ import annotations

import sys
from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from luthien.errors import ConfigError
from luthien.settings import Settings, read_settings

DEADLINE_S = 4.0
"""Shorter than what a container's health check may take, so that there is a reason to read."""

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is listened on, and how it is reached from here
_SHOWN_CHARS = 500


def main(arguments: list[str]) -> int:
    """Prints what was answered, and returns the exit status."""
    target = arguments[0] if arguments else "/healthz"
    try:
        url = target if target.startswith(("http://", "https://")) else address_of(read_settings()) + target
        is_well, said = ask(url)
    except ConfigError as error:
        is_well, said = False, str(error)
    print(said)  # noqa: T201 - a command, for whoever reads the container's state
    return 0 if is_well else 1


def address_of(settings: Settings) -> str:
    """The base address at which the gateway of these settings answers on its own machine."""
    host = _EVERYWHERE.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def ask(url: str) -> tuple[bool, str]:
    """Whether the answer is 200, and the beginning of what it says; not longer than the deadline, come what may."""
    answers: SimpleQueue[tuple[bool, str]] = SimpleQueue()
    # The sockets' own time-outs begin anew with every byte.
    Thread(target=lambda: answers.put(_asked(url)), daemon=True).start()
    try:
        return answers.get(timeout=DEADLINE_S)
    except Empty:
        return False, f"{url} does not answer within {DEADLINE_S:g} seconds"


def _asked(url: str) -> tuple[bool, str]:
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=DEADLINE_S) as answer:
            return answer.status == 200, answer.read(_SHOWN_CHARS).decode(errors="replace")
    except HTTPError as error:
        return False, f"{error.code}: {_said_with(error)}"
    except (OSError, HTTPException, ValueError) as error:
        return False, f"{url} does not answer: {error}"


def _said_with(error: HTTPError) -> str:
    try:
        with error:
            return error.read(_SHOWN_CHARS).decode(errors="replace")
    except (OSError, HTTPException):
        return "and nothing more"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
