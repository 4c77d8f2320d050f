"""What goes in comes out: through the gateway, the spool, Postgres and the download, byte for byte."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import httpx
import psycopg
import pytest

from luthien.record.stretch import ReadBack, Stretch
from luthien.settings import Settings
from tests.playbook import STAGES, Gateway, ScriptedProvider, answers, running_gateway, streams
from tests.wire import DONE, openai_chunk, openai_request

OPENAI = "/v1/chat/completions"
DEEP = 200_000
LARGEST = Settings().max_body_bytes

VALID = {
    "key order, white space and line ends": b'{"z":1,\r\n "a" : 2 ,"messages":[], "model":"m"}\r\n',
    "repeated keys": b'{"model":"m","model":"n","messages":[],"messages":[{}]}',
    "the text of numbers": b'{"model":"m","n":[1.0,1,1e0,1E+0,-0,0.10,123456789012345678901234567890,1e400]}',
    "escapes": rb'{"model":"m","s":"\u0000 \ud800 \udfff\ud800 \u0041 \/ \ud83d\ude00"}',
    "characters beyond the basic plane": '{"model":"m","s":"\U0001f600\ufeff\u202e"}'.encode(),
    "a byte order mark": b'\xef\xbb\xbf{"model":"m"}',
    "the largest body": b'{"model":"m","s":"' + b"x" * (LARGEST - 20) + b'"}',
}
INVALID = {
    "nothing": b"",
    "invalid UTF-8": b'{"model":"\xff\xfe\x80"}',
    "NUL bytes": b'{"model":"m"}\0\0',
    "depth beyond any parser": b'{"model":"m","d":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "noise": random.Random(7).randbytes(1_000_000),
}


def check(gateway: Gateway, response: httpx.Response, stage: str, body: bytes) -> None:
    """The download, the stored payload and the hashes beside it are those of the body."""
    sha256 = hashlib.sha256(body).digest()
    assert hashlib.sha256(gateway.raw(response, stage)).digest() == sha256
    with psycopg.connect(gateway.app._dsn) as conn:
        query = """
            SELECT coalesce(stage.payload, target.payload), stage.payload_sha256, stage.payload_bytes,
                stage.wire_sha256, stage.wire_bytes
            FROM conversation_events AS stage
            LEFT JOIN conversation_events AS target
                ON target.call_id = stage.call_id AND target.sequence = stage.payload_ref
            WHERE stage.call_id = %s AND stage.event_type = %s
        """
        [row] = conn.execute(query, (response.headers["luthien-call-id"], stage), binary=True).fetchall()
    payload, *rest = row
    assert payload == body
    assert rest == [sha256, len(body), sha256, len(body)]


@pytest.mark.parametrize("body", VALID.values(), ids=VALID.keys())
def test_a_body_is_recorded_as_it_came(gateway: Gateway, provider: ScriptedProvider, body: bytes) -> None:
    provider.will(answers(body))
    response = gateway.post(OPENAI, body)
    assert response.content == body
    for stage in STAGES:
        check(gateway, response, stage, body)


@pytest.mark.parametrize("body", INVALID.values(), ids=INVALID.keys())
def test_a_request_that_no_parser_takes_is_recorded_as_it_came(gateway: Gateway, body: bytes) -> None:
    response = gateway.post(OPENAI, body)
    assert response.status_code == 400
    check(gateway, response, "request_original", body)


@pytest.mark.parametrize("body", INVALID.values(), ids=INVALID.keys())
def test_a_response_that_no_parser_takes_is_recorded_as_it_came(
    gateway: Gateway, provider: ScriptedProvider, body: bytes
) -> None:
    provider.will(answers(body))
    response = gateway.post(OPENAI, openai_request())
    assert response.content == body
    for stage in STAGES[2:]:
        check(gateway, response, stage, body)


def test_the_hash_of_a_stream_is_that_of_the_bytes_the_client_got(
    gateway: Gateway, provider: ScriptedProvider
) -> None:
    frames = [
        openai_chunk({"content": "\x00\u2028\U0001f600"}),
        b": \xff no UTF-8\n\n",
        b'data: {"a": "\\ud800"}\r\n\r\n',
        DONE,
    ]
    provider.will(streams(*frames))
    response = gateway.post(OPENAI, openai_request(stream=True))
    assert response.content == b"".join(frames)
    stages = gateway.call(response)["stages"]
    sha256 = hashlib.sha256(response.content).hexdigest()
    assert [stages[stage]["wire_sha256"] for stage in STAGES[2:]] == [sha256, sha256]


def test_payloads_come_through_the_spool_alone_unharmed(
    record_database: str, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database is busy and memory is short, records wait on the disk only, and are read back from there."""
    bodies = [body + b" " * 1_000_000 for body in VALID.values() if len(body) < 1_000_000]
    read_back = 0
    read = Stretch.read

    def counting(*args: Any) -> ReadBack:
        nonlocal read_back
        found = read(*args)
        read_back += len(found.records)
        return found

    monkeypatch.setattr(Stretch, "read", counting)
    with running_gateway(record_database, provider.url, queue_max_bytes=8_000_000) as gateway:
        responses = []
        with psycopg.connect(record_database) as busy:
            busy.execute("LOCK TABLE conversation_events IN EXCLUSIVE MODE")
            for body in bodies:
                provider.will(answers(body))
                responses.append(gateway.post(OPENAI, body))
        for body, response in zip(bodies, responses, strict=True):
            for stage in STAGES:
                check(gateway, response, stage, body)
    assert read_back > len(bodies)
