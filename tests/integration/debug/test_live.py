"""The live feed: every change of a call comes, from every process, in an order in which none is passed by."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest

from luthien.debug import live
from luthien.exchange import StageRecord
from luthien.gateway import protocol
from luthien.store.feed import Position
from luthien.store.partitions import PartitionKeeper, day_of
from luthien.store.write import prepare, write_batch
from tests.follower import SIGNED_IN, following
from tests.playbook import DEADLINE_S, TOKEN, Gateway, ScriptedProvider, answers, eventually, running_gateway
from tests.records import whole_call
from tests.serving import serving
from tests.tcp_proxy import proxy_to
from tests.wire import openai_request, openai_response

OPENAI = "/v1/chat/completions"


def called(gateway: Gateway, **more: Any) -> str:
    response = gateway.post(OPENAI, openai_request("Hello") | more)
    return response.headers["luthien-call-id"]


def store(dsn: str, *records: StageRecord) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        PartitionKeeper().ensure(conn, {day_of(each.call_id) for each in records})
        prepare(conn)
        write_batch(conn, records)


def stored(dsn: str, calls: int = 1) -> list[str]:
    """Calls that somebody else has recorded, in one transaction."""
    made = [whole_call() for _ in range(calls)]
    store(dsn, *(each for call in made for each in call))
    return [str(call[0].call_id) for call in made]


def stored_before(dsn: str, calls: int = 1) -> None:
    """Like `stored`, and waits for every older transaction: who follows from then on begins after the calls."""
    stored(dsn, calls)
    wait_for_others(dsn)


def wait_for_others(dsn: str, but: str = "0") -> None:
    """Until every transaction of the cluster that is open now has ended, but for one."""
    still_open = (
        "SELECT xid::text FROM pg_snapshot_xip(pg_current_snapshot()) AS xid WHERE xid < %s::xid8 AND xid <> %s::xid8"
    )
    with psycopg.connect(dsn, autocommit=True) as conn:
        [(beyond,)] = conn.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchall()
        others = eventually(lambda: conn.execute(still_open, [beyond, but]).fetchall(), lambda them: not them)
    assert not others


class TestTheFeed:
    def test_tells_of_a_call_while_it_runs_and_when_it_has_ended(
        self, gateway: Gateway, provider: ScriptedProvider
    ) -> None:
        gate = provider.gate()

        async def hold(turn: Any) -> None:
            await gate.wait()
            await answers(openai_response("Hi"))(turn)

        provider.will(hold)
        with following(gateway.url) as feed, ExitStack() as stack:
            client = stack.enter_context(httpx.Client(timeout=DEADLINE_S))
            thread = threading.Thread(
                target=client.post, args=(gateway.url + OPENAI,), kwargs={"json": openai_request()}
            )
            thread.start()
            first = feed.wait_for_kind("call")
            assert first.data["outcome"] is None
            assert first.data["completeness"]["state"] == "pending"
            gate.open()
            thread.join()
            feed.wait_for_outcome(first.data["call_id"])
            last = feed.of("call")[-1].data
        assert last["completeness"]["state"] == "complete"
        listed = gateway.get("/debug/calls.json").json()["calls"][0]
        # Meanwhile it may have been indexed, which is no change of its row.
        assert {name: last[name] for name in listed} | {"indexed": listed["indexed"]} == listed
        assert last["process"] is None or last["process"].endswith(str(os.getpid()))

    def test_has_the_calls_of_every_process(
        self, gateway: Gateway, record_database: str, provider: ScriptedProvider
    ) -> None:
        provider.will(answers(openai_response("Hi")))
        with (
            running_gateway(record_database, provider.url) as other,
            following(gateway.url) as here,
            following(other.url) as there,
        ):
            made = [called(each) for each in (gateway, other, other, gateway)]
            for feed in (here, there):
                for each in made:
                    feed.wait_for_outcome(each)
                assert sorted(feed.calls()) == sorted(made)  # two processes store them, each in its own time

    def test_does_not_pass_by_what_is_committed_late(self, gateway: Gateway, record_database: str) -> None:
        """The transaction that began first ends last: nothing comes while it is open, and then everything."""
        late, early = whole_call(), whole_call()
        with psycopg.connect(record_database, autocommit=True) as conn, following(gateway.url) as feed:
            PartitionKeeper().ensure(conn, {day_of(late[0].call_id)})
            prepare(conn)
            with conn.transaction():
                write_batch(conn, late)
                store(record_database, *early)
                with following(gateway.url) as other:
                    assert not other.of("call")
                    [(seen,)] = conn.execute("SELECT count(*) FROM conversation_calls")
                    assert seen == 2
                assert not feed.of("call")
            feed.wait_for(lambda it: len(it.calls()) == 2)
            assert feed.calls() == [str(late[0].call_id), str(early[0].call_id)]

    def test_says_that_it_waits_for_an_open_transaction(
        self, gateway: Gateway, record_database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever comes meanwhile is told, too; and a transaction that keeps nothing back is not worth a word."""
        monkeypatch.setattr(live, "HELD_S", 0.2)
        with psycopg.connect(record_database) as idle, following(gateway.url) as feed:
            [(xid, began)] = idle.execute("SELECT pg_current_xact_id()::text, now()").fetchall()
            wait_for_others(record_database, but=xid)
            eventually(lambda: feed.position, lambda at: int(at.split("-")[0]) > 0)
            assert not feed.of("held")
            [call_id] = stored(record_database)
            held = feed.wait_for_kind("held")
            assert datetime.fromisoformat(held.data["since"]) == began.astimezone(UTC).replace(microsecond=0)
            assert f"open since {began.astimezone(UTC):%H:%M} UTC" in held.data["sentence"]
            with following(gateway.url) as other:
                other.wait_for_kind("held")
            assert not feed.of("call")
            wait_for_others(record_database, but=xid)
            idle.commit()
            feed.wait_for_outcome(call_id)
            assert [event.kind for event in feed.events] == ["hello", "held", "back", "call"]

    def test_comes_without_being_woken_up(self, gateway: Gateway, record_database: str) -> None:
        """As when a change commits before which another transaction was open: that one wakes nobody."""
        with psycopg.connect(record_database) as idle, following(gateway.url) as feed:
            idle.execute("SELECT pg_current_xact_id()")
            [call_id] = stored(record_database)
            idle.commit()
            feed.wait_for_outcome(call_id)

    def test_tells_what_filters_let_through(self, gateway: Gateway, provider: ScriptedProvider) -> None:
        provider.will(answers(openai_response("Hi")))
        with (
            following(gateway.url, "?model=wanted") as some,
            following(gateway.url, "?outcome=running&rows=live") as running,
            following(gateway.url, "?without=provider") as unsent,
            following(gateway.url) as every,
        ):
            plain, wanted = called(gateway), called(gateway, model="wanted")
            for feed, call_id in ((every, plain), (every, wanted), (some, wanted)):
                feed.wait_for_outcome(call_id)
            assert some.calls() == [wanted]
            for feed in (running, unsent):
                feed.wait_for(lambda it: {e.data["call_id"] for e in it.of("left")} == {plain, wanted})

    @pytest.mark.parametrize(
        "query", ["?text=x", "?changed_by=x", "?part=tools", "?nonsense=1", "?outcome=fine", "?rows=x"]
    )
    def test_refuses_what_cannot_be_followed(self, gateway: Gateway, query: str) -> None:
        response = gateway.get(f"/debug/events{query}")
        assert response.status_code == 400
        assert response.json()["parameter"] == query[1:].partition("=")[0]

    def test_is_for_those_who_signed_in(self, gateway: Gateway) -> None:
        assert gateway.get("/debug/events", {}).status_code == 401

    def test_takes_so_many_and_no_more(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(live, "FOLLOWERS", 2)
        with following(gateway.url), following(gateway.url):
            assert gateway.get("/debug/events").status_code == 503
        assert eventually(lambda: gateway.app._now.feed._followers, lambda count: count == 0) == 0
        with following(gateway.url):
            pass


class TestWhoComesBack:
    def test_gets_exactly_what_was_missed(self, gateway: Gateway, record_database: str) -> None:
        with following(gateway.url) as feed:
            seen = stored(record_database, 3)
            feed.wait_for(lambda it: len(it.calls()) == 3)
            first, last = feed.of("call")[0].id, feed.position
        missed = stored(record_database, 2) + stored(record_database, 2)
        with following(gateway.url, last=last) as again:
            again.wait_for(lambda it: len(it.calls()) == 4)
            new = stored(record_database)
            again.wait_for(lambda it: len(it.calls()) == 5)
            assert again.calls() == missed + new
            assert len(again.of("call")) == 5
            assert not again.of("gap")
        with following(gateway.url, f"?after={first}") as rest:
            rest.wait_for(lambda it: len(it.calls()) == 7)
            assert rest.calls() == seen[1:] + missed + new, "from within what one transaction wrote"

    def test_at_another_process_gets_the_same(
        self, gateway: Gateway, record_database: str, provider: ScriptedProvider
    ) -> None:
        with following(gateway.url) as feed:
            last = feed.position
        missed = stored(record_database, 2)
        with running_gateway(record_database, provider.url) as other, following(other.url, last=last) as again:
            again.wait_for(lambda it: len(it.calls()) == 2)
            assert again.calls() == missed

    def test_too_late_is_told_of_the_gap(
        self, gateway: Gateway, record_database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(live, "KEPT", 3)
        with following(gateway.url) as feed:
            last = feed.position
        stored_before(record_database, 4)
        with following(gateway.url, last=last) as again:
            gap = again.wait_for_kind("gap")
            assert gap.data["reason"] == "too_many"
            assert "/debug/calls.json" in gap.data["reload"]
            new = stored(record_database)
            again.wait_for(lambda it: it.calls())
            assert again.calls() == new, "it goes on from there"
            position = again.position
        stored(record_database, 3)
        with following(gateway.url, last=position) as again:
            again.wait_for(lambda it: len(it.calls()) == 3)
            assert not again.of("gap"), "so many are told again"

    @pytest.mark.parametrize(
        ("last", "reason"),
        [
            (str(Position(5, UUID(int=0), int(time.time()) - live.REPLAY_S - 60)), "too_old"),
            (str(Position(1 << 60, UUID(int=0), int(time.time()))), "unknown"),
            ("nonsense", "unreadable"),
            (f"{1 << 64}-{'0' * 32}-5", "unreadable"),
        ],
        ids=["older than is kept", "of the future", "nonsense", "out of range"],
    )
    def test_with_a_position_that_says_nothing_is_told_so(
        self, gateway: Gateway, record_database: str, last: str, reason: str
    ) -> None:
        stored_before(record_database)
        with following(gateway.url, last=last) as feed:
            assert feed.wait_for_kind("gap").data["reason"] == reason
            new = stored(record_database)
            feed.wait_for(lambda it: it.calls())
            assert feed.calls() == new


class TestTheDatabase:
    def test_goes_away_and_comes_back_and_nothing_is_missed(
        self, record_database: str, provider: ScriptedProvider
    ) -> None:
        with (
            proxy_to(record_database) as proxy,
            running_gateway(proxy.dsn(record_database), provider.url) as gateway,
            following(gateway.url) as feed,
        ):
            before = stored(record_database)
            feed.wait_for_outcome(before[0])
            proxy.refuse()
            assert "away" in feed.wait_for_kind("away").data["sentence"]
            meanwhile = stored(record_database, 2)
            with following(gateway.url, last=feed.position) as late:
                assert late.events[0].kind == "away"
                proxy.accept()
                for each in (feed, late):
                    each.wait_for_kind("back")
                    each.wait_for_outcome(meanwhile[-1])
            assert feed.calls() == before + meanwhile
            assert len(feed.of("away")) == 1
            assert not feed.of("gap")

    def test_that_forgets_who_listens_is_asked_all_the_same(self, gateway: Gateway, record_database: str) -> None:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'luthien-feed'"
        with psycopg.connect(record_database, autocommit=True) as conn, following(gateway.url) as feed:
            eventually(lambda: conn.execute(ended).fetchall(), bool)
            feed.wait_for_outcome(stored(record_database)[0])
            assert not feed.of("away")

    def test_has_one_listener_a_process_however_many_follow(self, gateway: Gateway, record_database: str) -> None:
        count = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'luthien-feed' AND query LIKE 'LISTEN%'"
        )
        with psycopg.connect(record_database, autocommit=True) as conn:
            with following(gateway.url), following(gateway.url), following(gateway.url):
                assert eventually(lambda: conn.execute(count).fetchone(), lambda row: row == (1,)) == (1,)
            assert eventually(lambda: conn.execute(count).fetchone(), lambda row: row == (0,)) == (0,)


def slow_reader(gateway: Gateway) -> socket.socket:
    """Somebody who asks for the feed and does not read it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", int(gateway.url.rpartition(":")[2])))
    client.settimeout(30)
    client.sendall(
        f"GET /debug/events?rows=live HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\r\n".encode()
    )
    return client


class TestASlowReader:
    def test_is_cut_off_and_holds_nobody_up(
        self, gateway: Gateway, record_database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "STALL_S", 2.0)  # the other reader may be kept from its core for a while
        feed_of = gateway.app._now
        with closing(slow_reader(gateway)) as slow, following(gateway.url) as feed:
            assert eventually(lambda: feed_of.feed._followers, lambda count: count == 2) == 2
            told = 0
            while feed_of.feed._followers == 2 and told < 20_000:
                made = stored(record_database, 500)
                told += len(made)
                feed.wait_for_outcome(made[-1])
            assert eventually(lambda: feed_of.feed._followers, lambda count: count == 1) == 1
            assert len(feed_of.feed.kept.changes) <= live.KEPT
            assert slow.recv(100).startswith(b"HTTP/1.1 200")


class TestAServerThatStops:
    @pytest.mark.parametrize("arguments", [(), ("--workers", "2")], ids=["one", "workers"])
    def test_ends_what_is_followed(
        self, record_database: str, provider: ScriptedProvider, data_dir: Path, arguments: tuple[str, ...]
    ) -> None:
        provider.will(answers(openai_response("Hi")))
        with (
            ExitStack() as stack,
            serving(data_dir, record_database, provider.url, *arguments, LUTHIEN_GRACE_S="60") as gateway,
        ):
            feeds = [stack.enter_context(following(gateway.url)) for _ in range(4)]
            response = httpx.post(gateway.url + OPENAI, json=openai_request(), timeout=DEADLINE_S)
            for feed in feeds:
                feed.wait_for_outcome(response.headers["luthien-call-id"])
            gateway.signal(15)
            for feed in feeds:
                feed.wait_for(lambda it: it.is_over)
            assert gateway.command.wait() == 0, gateway.command.output
            assert "exceeded" not in gateway.command.output, "it did not have to be cut short"
            assert "ERROR" not in gateway.command.output.upper()

    def test_does_not_wait_for_who_does_not_read(self, record_database: str, provider: ScriptedProvider) -> None:
        with running_gateway(record_database, provider.url, grace_s=60.0) as gateway:
            slow, now = slow_reader(gateway), gateway.app._now
            assert eventually(lambda: now.feed._followers, lambda count: count == 1) == 1
            connections = gateway.server.server_state.connections

            def has_stalled() -> bool:
                # What the feed has not come to when a thousand more are stored is a gap, which fills no line.
                stored(record_database, 500)
                return any(getattr(each, "_stall", None) for each in [*connections])

            assert eventually(has_stalled, bool)
        slow.close()


def test_the_page_says_what_to_do_without_javascript(gateway: Gateway) -> None:
    html = httpx.get(
        f"{gateway.url}/debug/live", headers={**SIGNED_IN, "accept": "text/html"}, timeout=DEADLINE_S
    ).text
    assert "<noscript>" in html
    assert 'href="/debug/calls"' in html
