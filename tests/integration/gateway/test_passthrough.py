"""What is passed through although no policy sees it: what the list opens, whole and unchanged, and nothing else."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.client
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx
import openai
import pytest

from luthien.pipeline.passage import KEPT_BYTES
from tests.playbook import (
    DEADLINE_S,
    STAGES,
    Gateway,
    ScriptedProvider,
    Turn,
    answers,
    eventually,
    running_gateway,
    settled,
    streams,
)
from tests.ports import reserved_port

MODELS = {"object": "list", "data": [{"id": "gpt-test", "object": "model", "created": 1, "owned_by": "me"}]}
ANTHROPIC = {"x-api-key": "sk-ant", "anthropic-version": "2023-06-01"}
BIG = 5_000_000


def states(call: dict[str, Any]) -> dict[str, str]:
    return {name: stage["state"] for name, stage in call["stages"].items()}


def send_raw(gateway: Gateway, method: str, target: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """A request whose path no client library has put in order."""
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=DEADLINE_S)
    connection.putrequest(method, target, skip_host=True)
    for name, value in {"host": "x", "content-length": "0", **(headers or {})}.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found


async def read_chunked(turn: Turn) -> bytes:
    data = b""
    while size := int(await turn.reader.readuntil(b"\r\n"), 16):
        data += await turn.reader.readexactly(size)
        await turn.reader.readexactly(2)
    await turn.reader.readexactly(2)
    return data


class TestSdks:
    def test_openai_lists_and_gets_models(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(answers(MODELS), answers(MODELS["data"][0]))
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-client", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["gpt-test"]
            assert client.models.retrieve("ft:gpt:org::1").id == "gpt-test"
        assert [turn.path for turn in provider.turns] == ["/v1/models", "/v1/models/ft:gpt:org::1"]
        assert provider.turns[0].headers["authorization"] == "Bearer sk-client"

    def test_openai_embeds(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(
            answers(
                {
                    "object": "list",
                    "model": "emb",
                    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
                    "usage": {"prompt_tokens": 1, "total_tokens": 1},
                }
            )
        )
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-client", max_retries=0) as client:
            raw = client.embeddings.with_raw_response.create(model="emb", input="Hello", encoding_format="float")
        assert raw.parse().data[0].embedding == [0.5, 0.25]
        call = gateway.call(raw.headers["luthien-call-id"])
        assert (call["outcome"], call["wire_format"], call["provider"]) == ("completed", "passthrough", "openai")
        assert call["endpoint"] == "POST /v1/embeddings"
        assert call["stages"]["request_original"]["payload"]["input"] == "Hello"
        assert set(states(call).values()) == {"recorded"}
        assert call["verdict"] == "no policy looked at this call"
        assert call["ms"]["upstream"] > 0
        assert call["ms"]["client_first_chunk"] >= call["ms"]["upstream_first_chunk"] > 0

    def test_anthropic_counts_tokens_and_lists_models(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        models = {
            "data": [
                {"id": "claude-test", "type": "model", "display_name": "C", "created_at": "2026-01-01T00:00:00Z"}
            ],
            "has_more": False,
            "first_id": None,
            "last_id": None,
        }
        provider.will(answers({"input_tokens": 7}), answers(models))
        with anthropic.Anthropic(base_url=gateway.url, api_key="sk-ant", max_retries=0) as client:
            counted = client.messages.with_raw_response.count_tokens(
                model="claude-test", messages=[{"role": "user", "content": "Hello"}]
            )
            assert counted.parse().input_tokens == 7
            assert [model.id for model in client.models.list()] == ["claude-test"]
        assert [urlsplit(turn.path).path for turn in provider.turns] == ["/v1/messages/count_tokens", "/v1/models"]
        assert gateway.call(counted.headers["luthien-call-id"])["provider"] == "anthropic"

    def test_both_sdks_understand_a_refusal(self, gateway: Gateway) -> None:
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk", max_retries=0) as client:
            with pytest.raises(openai.PermissionDeniedError, match="passthrough"):
                client.files.list()
            with pytest.raises(openai.PermissionDeniedError, match="never passed on"):
                client.responses.retrieve("resp_1")
        with (
            anthropic.Anthropic(base_url=gateway.url, api_key="sk", max_retries=0) as client_,
            pytest.raises(anthropic.PermissionDeniedError, match="passthrough"),
        ):
            client_.messages.batches.list()


class TestRefused:
    @pytest.mark.parametrize(
        ("method", "target"),
        [
            ("POST", "/v1/files"),
            ("DELETE", "/v1/models/x"),
            ("HEAD", "/v1/models"),
            ("GET", "/v1/Models"),
            ("GET", "/v1/"),
            ("GET", "/v1//models"),
            ("GET", "/v1/models/"),
            ("GET", "/v1/models/.."),
            ("GET", "/v1/models/%2e%2e/files"),
            ("GET", "/v1/models/%2e%2e%2ffiles"),
            ("GET", "/v1/models%2fx"),
            ("GET", "/v1/models/%252e"),
            ("POST", "/v1/models/../chat/completions"),
            ("POST", "/v1/./chat/completions"),
            ("POST", "/v1//chat/completions"),
            ("POST", "/v1/Chat/Completions"),
            ("POST", "/v1/chat/completions/"),
            ("GET", "/v1/chat/completions"),
            ("GET", "/v1/responses/resp_1"),
            ("POST", "/v1/responses/compact"),
            ("GET", "/v1/messages"),
            ("TRACE", "/v1/models"),
            ("BREW", "/v1/models"),
        ],
    )
    def test_it_goes_nowhere_and_is_recorded(
        self, gateway: Gateway, provider: ScriptedProvider, method: str, target: str
    ) -> None:
        status, body = send_raw(gateway, method, target)
        assert status == 403 if method != "BREW" else status in (400, 403)
        assert provider.turns == []
        if status == 403:
            call = gateway.call(gateway.only_call_id())
            assert (call["outcome"], call["http_status"]) == ("rejected", 403)
            assert call["completeness"]["state"] == "complete"
            assert method in call["error"]["message"]
            assert states(call) == dict.fromkeys(STAGES, "not_reached") | {"response_final": "gateway_generated"}
        assert method == "HEAD" or status != 403 or b"is not passed on" in body or b"is never passed on" in body

    def test_the_setting_that_opens_it_is_named_in_the_clients_own_shape(self, gateway: Gateway) -> None:
        for_openai = gateway.post("/v1/files", {}).json()["error"]
        assert (for_openai["type"], for_openai["code"]) == ("permission_error", "path_not_open")
        assert '"POST /v1/files" to the list `passthrough` in luthien.yaml' in for_openai["message"]
        for_anthropic = gateway.post("/v1/messages/batches", {}, headers=ANTHROPIC).json()
        assert (for_anthropic["type"], for_anthropic["error"]["type"]) == ("error", "permission_error")

    def test_a_list_of_ones_own_replaces_the_default(self, record_database: str, provider: ScriptedProvider) -> None:
        provider.will(answers({"ok": True}))
        opened = ["POST /v1/files", "GET /v1/files/*/content"]
        with running_gateway(record_database, provider.url, passthrough=opened) as gateway:
            assert gateway.post("/v1/files", {}).status_code == 200
            assert gateway.get("/v1/files/f-1/content").status_code == 200
            assert gateway.get("/v1/models").status_code == 403
        with running_gateway(record_database, provider.url, passthrough=[]) as gateway:
            assert gateway.get("/v1/models").status_code == 403


class TestProviders:
    @pytest.fixture
    def two(self, record_database: str) -> Iterator[tuple[Gateway, ScriptedProvider, ScriptedProvider]]:
        first, second = ScriptedProvider(), ScriptedProvider()
        first.will(answers({"who": "openai"}))
        second.will(answers({"who": "anthropic"}))
        with running_gateway(record_database, first.url, anthropic_url=second.url) as gateway:
            yield gateway, first, second
        first.close()
        second.close()

    @pytest.mark.parametrize(
        ("headers", "who"),
        [
            ({}, "openai"),
            ({"authorization": "Bearer sk"}, "openai"),
            ({"x-api-key": "sk-ant"}, "anthropic"),
            ({"authorization": "Bearer oauth", "anthropic-version": "2023-06-01"}, "anthropic"),
            (ANTHROPIC, "anthropic"),
        ],
    )
    def test_credentials_go_to_whom_they_are_for(
        self, two: tuple[Gateway, ScriptedProvider, ScriptedProvider], headers: dict[str, str], who: str
    ) -> None:
        gateway, *providers = two
        response = gateway.get("/v1/models", headers)
        assert response.json() == {"who": who}
        asked, other = providers if who == "openai" else reversed(providers)
        assert other.turns == []
        assert {name: asked.turns[0].headers[name] for name in headers} == headers
        assert gateway.call(response)["provider"] == who

    @pytest.mark.parametrize(
        ("path", "headers"),
        [
            ("/v1/messages/count_tokens", {"authorization": "Bearer sk-openai"}),
            ("/v1/messages/count_tokens", {}),
            ("/v1/embeddings", ANTHROPIC),
        ],
    )
    def test_a_path_of_one_is_not_asked_with_credentials_of_the_other(
        self, two: tuple[Gateway, ScriptedProvider, ScriptedProvider], path: str, headers: dict[str, str]
    ) -> None:
        gateway, first, second = two
        response = gateway.post(path, {}, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "wrong_provider")
        assert first.turns == second.turns == []
        assert gateway.call(response)["outcome"] == "rejected"

    def test_of_two_credentials_only_the_certain_one_goes_on(
        self, two: tuple[Gateway, ScriptedProvider, ScriptedProvider]
    ) -> None:
        gateway, _, second = two
        gateway.get("/v1/models", {**ANTHROPIC, "authorization": "Bearer sk-openai"})
        assert second.turns[0].headers["x-api-key"] == "sk-ant"
        assert "authorization" not in second.turns[0].headers


class TestBodies:
    def test_what_is_larger_than_a_body_may_be_passes_both_ways_and_is_kept_as_its_beginning(
        self, record_database: str, provider: ScriptedProvider
    ) -> None:
        question, answer = os.urandom(BIG), os.urandom(BIG)
        provider.will(answers(answer, headers={"content-type": "application/octet-stream"}))
        with running_gateway(record_database, provider.url, max_body_bytes=1000) as gateway:
            response = gateway.post("/v1/embeddings?x=%2F", question)
            assert response.content == answer
            assert response.headers["content-length"] == str(BIG)
            assert provider.turns[0].body == question
            assert provider.turns[0].path == "/v1/embeddings?x=%2F"
            call = gateway.call(response)
            for stage, whole in zip(STAGES, (question, question, answer, answer), strict=True):
                shown = call["stages"][stage]
                assert (shown["state"], shown["capped"]) == ("recorded", True)
                assert (shown["payload_bytes"], shown["wire_bytes"]) == (KEPT_BYTES, BIG)
                assert shown["wire_sha256"] == hashlib.sha256(whole).hexdigest()
                assert gateway.raw(response, stage) == whole[:KEPT_BYTES]
            raw = gateway.get(f"/debug/calls/{call['call_id']}/stages/response_final/raw")
            assert "response_final.capped.bin" in raw.headers["content-disposition"]
            assert raw.headers["luthien-note"] == f"capped: {KEPT_BYTES} of {BIG} bytes, the beginning, are recorded"
            diff = gateway.diff(response)
            assert diff["capped"] == list(STAGES)
            assert diff["verdict"] == "no policy looked at this call"
            page = gateway.get(f"/debug/calls/{call['call_id']}", {**gateway.headers, "accept": "text/html"}).text
            assert "capped" in page
            assert "hashes of all bytes are the same" in page

    @pytest.mark.parametrize("size", [0, 1, KEPT_BYTES - 1, KEPT_BYTES])
    def test_what_fits_is_kept_whole(self, gateway: Gateway, provider: ScriptedProvider, size: int) -> None:
        body = os.urandom(size)
        provider.will(answers(body))
        response = gateway.post("/v1/embeddings", body)
        assert (provider.turns[0].body, response.content) == (body, body)
        stages = gateway.call(response)["stages"]
        for stage in STAGES:
            assert (stages[stage]["capped"], gateway.raw(response, stage)) == (False, body)

    def test_one_byte_more_is_capped(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(answers(bytes(KEPT_BYTES + 1)))
        stages = gateway.call(gateway.post("/v1/embeddings", bytes(KEPT_BYTES + 1)))["stages"]
        assert all(stages[stage]["capped"] for stage in STAGES)

    def test_a_body_of_unknown_length_is_passed_on_in_chunks(
        self, gateway: Gateway, provider: ScriptedProvider
    ) -> None:
        got: list[bytes] = []

        async def play(turn: Turn) -> None:
            got.append(await read_chunked(turn))
            await answers({"ok": True})(turn)

        provider.will(play)
        parts = [os.urandom(50_000) for _ in range(20)]
        response = httpx.post(f"{gateway.url}/v1/embeddings", content=iter(parts), timeout=DEADLINE_S)
        assert response.json() == {"ok": True}
        assert got == [b"".join(parts)]
        assert gateway.call(response)["stages"]["request_final"]["wire_bytes"] == 1_000_000

    def test_the_request_reaches_the_provider_before_it_is_whole(
        self, gateway: Gateway, provider: ScriptedProvider
    ) -> None:
        begun = asyncio.Event()

        async def play(turn: Turn) -> None:
            begun.set()
            await read_chunked(turn)
            await answers({"ok": True})(turn)

        def parts() -> Iterator[bytes]:
            yield bytes(KEPT_BYTES + 1)
            assert eventually(begun.is_set, bool)
            yield b"the rest"

        provider.will(play)
        assert httpx.post(f"{gateway.url}/v1/embeddings", content=parts(), timeout=DEADLINE_S).json() == {"ok": True}

    def test_the_response_is_not_held_until_it_is_whole(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        gate = provider.gate()

        async def play(turn: Turn) -> None:
            await turn.head(200, {"content-type": "text/plain", "content-length": "11"})
            await turn.send(b"first ")
            await asyncio.wait_for(gate.wait(), DEADLINE_S)
            await turn.send(b"after")

        provider.will(play)
        with httpx.stream("GET", f"{gateway.url}/v1/models", timeout=DEADLINE_S) as response:
            pieces = response.iter_raw()
            assert next(pieces) == b"first "
            gate.open()
            assert b"".join(pieces) == b"after"

    def test_a_client_that_reads_slowly_slows_the_provider(
        self, gateway: Gateway, provider: ScriptedProvider
    ) -> None:
        sent = 0
        total = 64 * 1024 * 1024

        async def play(turn: Turn) -> None:
            nonlocal sent
            await turn.head(200, {"content-length": str(total)})
            for _ in range(64):
                await turn.send(bytes(1024 * 1024))
                sent += 1

        provider.will(play)
        with httpx.stream("GET", f"{gateway.url}/v1/models", timeout=DEADLINE_S) as response:
            pieces = response.iter_raw()
            size = len(next(pieces))
            assert settled(lambda: sent) < 48
            size += sum(map(len, pieces))
        assert size == total

    def test_compressed_answers_are_given_uncompressed(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(
            answers(gzip.compress(b"plain" * 99), headers={"content-encoding": "gzip"}),
            answers(gzip.compress(b"plain" * 99)[:-9], headers={"content-encoding": "gzip"}),
        )
        response = gateway.get("/v1/models")
        assert response.content == b"plain" * 99
        assert gateway.call(response)["outcome"] == "completed"
        with pytest.raises(httpx.RemoteProtocolError):
            gateway.get("/v1/models")
        call = gateway.call(gateway.only_call_id(response))
        assert (call["outcome"], call["error"]["type"]) == ("upstream_error", "upstream_incomplete")

    def test_event_streams_pass(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(streams(b"data: 1\n\n", b"data: 2\n\n"))
        response = gateway.get("/v1/models")
        assert response.content == b"data: 1\n\ndata: 2\n\n"
        assert gateway.raw(response, "response_final") == response.content


class TestEnds:
    @pytest.mark.parametrize(("headers", "kind"), [({}, "server_error"), (ANTHROPIC, "api_error")])
    def test_a_provider_that_cannot_be_reached_is_a_502(
        self, record_database: str, headers: dict[str, str], kind: str
    ) -> None:
        with reserved_port() as port, running_gateway(record_database, f"http://127.0.0.1:{port}") as gateway:
            response = gateway.get("/v1/models", headers)
            call = gateway.call(response)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_unreachable")
        assert (call["outcome"], call["error"]["type"]) == ("upstream_error", "upstream_unreachable")
        assert states(call) == dict.fromkeys(STAGES, "recorded") | {
            "response_original": "not_reached",
            "response_final": "gateway_generated",
        }

    def test_errors_of_the_provider_pass_as_they_are(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(answers({"error": {"message": "no"}}, status=404, headers={"x-request-id": "r-1"}))
        response = gateway.get("/v1/models/none")
        assert (response.status_code, response.headers["x-request-id"]) == (404, "r-1")
        call = gateway.call(response)
        assert (call["outcome"], call["error"]["type"]) == ("upstream_error", "404")
        assert set(states(call).values()) == {"recorded"}

    def test_a_redirect_is_not_passed_on(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(answers(b"", status=302, headers={"location": "http://elsewhere/"}))
        response = gateway.get("/v1/models")
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_redirect")

    @pytest.mark.parametrize("framing", [{"transfer-encoding": "chunked"}, {"content-length": "100"}])
    def test_an_answer_that_breaks_off_breaks_off_for_the_client_too(
        self, gateway: Gateway, provider: ScriptedProvider, framing: dict[str, str]
    ) -> None:
        async def play(turn: Turn) -> None:
            await turn.head(200, framing)
            await (turn.chunk(b"a beginning") if "transfer-encoding" in framing else turn.send(b"a beginning"))
            turn.writer.write_eof()

        provider.will(play)
        with pytest.raises(httpx.RemoteProtocolError):
            gateway.get("/v1/models")
        call = gateway.call(gateway.only_call_id())
        assert (call["outcome"], call["http_status"]) == ("upstream_error", 200)
        assert call["stages"]["response_original"]["payload"] == "a beginning"
        assert call["stages"]["response_final"]["payload"] == "a beginning"

    def test_a_client_that_hangs_up_ends_the_providers_connection(
        self, gateway: Gateway, provider: ScriptedProvider
    ) -> None:
        gone = asyncio.Event()

        async def play(turn: Turn) -> None:
            await turn.head(200, {"transfer-encoding": "chunked"})
            await turn.chunk(b"a beginning")
            await turn.reader.read(1)
            gone.set()

        provider.will(play)
        with httpx.stream("GET", f"{gateway.url}/v1/models", timeout=DEADLINE_S) as response:
            assert next(response.iter_raw()) == b"a beginning"
        assert eventually(gone.is_set, bool)
        call = gateway.call(response.headers["luthien-call-id"])
        assert call["outcome"] == "client_disconnected"
        assert call["stages"]["response_final"]["payload"] == "a beginning"

    @pytest.mark.parametrize("size", [2, 100_000])
    def test_a_client_that_hangs_up_before_the_provider_answers_ends_its_connection(
        self, gateway: Gateway, provider: ScriptedProvider, size: int
    ) -> None:
        gone = asyncio.Event()

        async def play(turn: Turn) -> None:
            await turn.reader.read()
            gone.set()

        provider.will(play)
        address = urlsplit(gateway.url)
        with socket.create_connection((address.hostname or "", address.port or 0)) as client:
            client.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
            client.sendall(bytes(size))
            assert eventually(lambda: provider.turns, bool)
        assert eventually(gone.is_set, bool)
        call = gateway.call(gateway.only_call_id())
        assert call["outcome"] == "client_disconnected"
        assert states(call) == dict.fromkeys(STAGES[:2], "recorded") | dict.fromkeys(STAGES[2:], "not_reached")

    def test_a_client_that_hangs_up_while_it_sends_ends_the_providers_connection(
        self, gateway: Gateway, provider: ScriptedProvider
    ) -> None:
        rest: list[bytes] = []
        begun = asyncio.Event()

        async def play(turn: Turn) -> None:
            begun.set()
            try:
                while data := await turn.reader.read(65536):
                    del data
            finally:
                rest.append(b"")

        provider.will(play)
        address = urlsplit(gateway.url)
        with socket.create_connection((address.hostname or "", address.port or 0)) as client:
            client.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            client.sendall(b"%x\r\n%s\r\n" % (100_000, b"q" * 100_000))
            assert eventually(begun.is_set, bool)
        assert eventually(lambda: rest, bool)
        call = gateway.call(gateway.only_call_id())
        assert call["outcome"] == "client_disconnected"
        assert call["stages"]["request_original"]["wire_bytes"] == 100_000
        assert call["stages"]["response_final"]["state"] == "not_reached"

    def test_a_provider_that_answers_before_it_has_read_all_is_heard(
        self, gateway: Gateway, provider: ScriptedProvider
    ) -> None:
        async def play(turn: Turn) -> None:
            await answers({"error": {"message": "too large"}}, status=413, headers={"connection": "close"})(turn)
            turn.writer.close()

        provider.will(play)
        parts = (bytes(100_000) for _ in range(400))
        response = httpx.post(f"{gateway.url}/v1/embeddings", content=parts, timeout=DEADLINE_S)
        assert response.status_code in (413, 502)
        call = gateway.call(response)
        assert call["outcome"] == "upstream_error"
        assert call["stages"]["request_original"]["state"] == "recorded"

    def test_credentials_are_not_in_the_record(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(answers(MODELS))
        response = gateway.get("/v1/models?key=sk-query-mark", {"authorization": "Bearer sk-header-mark"})
        call = gateway.call(response)
        assert provider.turns[0].path == "/v1/models?key=sk-query-mark"
        assert "mark" not in str(call)

    @pytest.mark.parametrize("has_begun", [False, True])
    def test_a_gateway_that_stops_ends_it(
        self, record_database: str, provider: ScriptedProvider, has_begun: bool
    ) -> None:
        async def play(turn: Turn) -> None:
            if has_begun:
                await turn.head(200, {"transfer-encoding": "chunked"})
                await turn.chunk(b"a beginning")
            await turn.reader.read()

        heard = threading.Event()

        def ask(url: str) -> httpx.Response:
            with httpx.stream("GET", f"{url}/v1/models", timeout=DEADLINE_S) as response:
                if has_begun:
                    for _ in response.iter_raw():
                        heard.set()
                response.read()
            return response

        provider.will(play)
        with ThreadPoolExecutor(1) as pool:
            with running_gateway(record_database, provider.url, grace_s=0.2) as gateway:
                answer = pool.submit(ask, gateway.url)
                assert heard.wait(DEADLINE_S) if has_begun else eventually(lambda: provider.turns, bool)
            if has_begun:
                with pytest.raises(httpx.RemoteProtocolError):
                    answer.result()
            else:
                assert answer.result().status_code == 503
                assert answer.result().json()["error"]["code"] == "gateway_stopped"
        with running_gateway(record_database, provider.url) as later:
            call = later.call(later.only_call_id())
        assert (call["outcome"], call["error"]["type"]) == ("policy_error", "gateway_stopped")
        assert call["stages"]["response_final"]["state"] == ("recorded" if has_begun else "gateway_generated")
