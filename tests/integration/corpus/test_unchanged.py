"""Without policies the client gets the provider's very bytes, and the record what they mean."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.corpus.cases import Case, assembled, cases
from tests.corpus.content import content_of
from tests.corpus.sdks import Told, accumulated_by, events_of
from tests.integration.corpus.conftest import Passage
from tests.playbook import ScriptedProvider, running_gateway

AWKWARD_BYTES = 23


@pytest.fixture(scope="module")
def bare(corpus_database: str, corpus_provider: ScriptedProvider) -> Iterator[Passage]:
    with running_gateway(corpus_database, corpus_provider.url) as gateway:
        yield Passage(gateway, corpus_provider, corpus_database)


@pytest.mark.parametrize("piece_bytes", [None, AWKWARD_BYTES], ids=["whole", "in pieces"])
def test_through_a_gateway(bare: Passage, piece_bytes: int | None) -> None:
    for passed in bare.send([*cases()], piece_bytes):
        case = passed.case
        if case.is_told_the_end:
            assert passed.raw == case.raw, case
        else:
            assert passed.raw.startswith(case.raw), case
        assert passed.outcome == case.outcome, case
        assert assembled(json.loads(passed.original)) == assembled(case.response), case


def _how_the_sdk_fares(case: Case) -> set[str]:
    failed: set[str] = set()
    expected = content_of(case.folder, case.response)
    for how, read in (("create", events_of(case.folder)), ("stream", accumulated_by(case.folder))):
        try:
            content = read(case.raw)
        except Told as told:
            assert case.outcome == "upstream_error"
            content = told.content
        except Exception:  # noqa: BLE001 - however it fails, it does
            failed.add(how)
            continue
        if how == "stream" and case.outcome == "upstream_error":
            continue
        if content.texts != expected.texts:
            failed.add(how)
        elif content.calls != expected.calls:
            failed.add("calls")
        elif content.ends != expected.ends and case.outcome == "completed":
            failed.add(how)
    return failed


@pytest.mark.parametrize("case", cases(), ids=str)
def test_what_the_sdk_cannot_do_is_stated(case: Case) -> None:
    """It reads the unchanged stream as what it means, but for what the case says."""
    assert _how_the_sdk_fares(case) == set(case.sdk)
