"""The corpus under every kind of policy: what comes out is read by the official SDKs as what the record says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.corpus.cases import FORMATS, assembled, cases
from tests.corpus.configurations import (
    CONFIGURATIONS,
    SERVICE,
    UNSAID,
    Configuration,
)
from tests.corpus.content import Content, content_of, frame_of
from tests.corpus.sdks import Told, accumulated_by, events_of
from tests.integration.corpus.conftest import Passage, Passed
from tests.playbook import ScriptedProvider, running_gateway
from tests.validity import violations


@pytest.fixture(scope="module")
def passage(
    request: pytest.FixtureRequest,
    corpus_database: str,
    corpus_provider: ScriptedProvider,
    corpus_service: ScriptedProvider,
) -> Iterator[Passage]:
    policies = json.loads(json.dumps(request.param.policies).replace(SERVICE, corpus_service.url))
    with running_gateway(corpus_database, corpus_provider.url, policies) as gateway:
        yield Passage(gateway, corpus_provider, corpus_database)


@pytest.mark.parametrize("folder", FORMATS)
@pytest.mark.parametrize(
    ("passage", "configuration"), [(each, each) for each in CONFIGURATIONS], ids=str, indirect=["passage"]
)
def test_corpus(passage: Passage, configuration: Configuration, folder: str) -> None:
    sent = passage.send([*cases(folder)])
    faults = [f"{passed.case}: {fault}" for passed in sent for fault in _faults(passed, configuration)]
    assert not faults, "\n".join(["", *faults])


def _faults(passed: Passed, configuration: Configuration) -> Iterator[str]:
    case = passed.case
    if passed.outcome != case.outcome:
        yield f"the outcome is {passed.outcome}"
    is_silent = configuration.is_shadow or (configuration.is_silent and str(case) not in UNSAID)
    if is_silent and case.is_told_the_end and passed.raw != case.raw:
        yield f"other bytes: {_difference(case.raw, passed.raw)}"
    expected = configuration.expected(content_of(case.folder, case.response))
    final = content_of(case.folder, json.loads(passed.final))
    if configuration.says and final.texts != expected.texts:
        yield f"the record says {final.texts}, not {expected.texts}"
    if _arguments(final) != _arguments(expected):
        yield f"the record has the calls {final.calls}, not {expected.calls}"
    yield from _other_frame(passed)
    if final.ends != expected.ends:
        yield f"the record ends in {final.ends}, not {expected.ends}"
    yield from _misread(passed, final)
    yield from violated(passed)


def _other_frame(passed: Passed) -> Iterator[str]:
    case = passed.case
    before, after = (frame_of(case.folder, each) for each in (case.response, json.loads(passed.final)))
    if not case.is_told_the_end:
        after.pop("error")  # the gateway's own
        before.pop("error", None)
    if assembled(before) != assembled(after):
        yield f"around what it says: {before} became {after}"


def _misread(passed: Passed, final: Content) -> Iterator[str]:
    case = passed.case
    for how, read in (("create", events_of(case.folder)), ("stream", accumulated_by(case.folder))):
        if how in case.sdk:
            continue
        try:
            content = read(passed.raw)
        except Told as told:
            content = told.content
            if case.outcome != "upstream_error":
                yield f"{how}: the SDK was told of a failure"
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the case
            yield f"{how}: the SDK raised {type(error).__name__}: {error}"
            continue
        if how == "stream" and case.outcome == "upstream_error":
            continue  # what it had put together is lost
        if content.texts != final.texts:
            yield f"{how}: the SDK has {content.texts}, the record {final.texts}"
        if "calls" not in case.sdk and _arguments(content) != _arguments(final):
            yield f"{how}: the SDK has the calls {content.calls}, the record {final.calls}"
        if content.ends != final.ends and case.outcome == "completed":
            yield f"{how}: for the SDK it ends in {content.ends}, for the record in {final.ends}"


def violated(passed: Passed) -> Iterator[str]:
    """What of the protocol the re-emitted bytes violate that the provider's did not."""
    known = {violation.rule for violation in violations(passed.case.format, passed.case.raw)}
    for violation in violations(passed.case.format, passed.raw):
        if violation.rule not in known:
            yield f"{violation.rule}: {violation.detail}"


def _arguments(content: Content) -> list[object]:
    """JSON may be written in several ways."""
    return [_value(arguments) for _, arguments in content.calls]


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _difference(before: bytes, after: bytes) -> str:
    place = next(
        (at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    return f"from byte {place}: {before[place : place + 80]!r} became {after[place : place + 80]!r}"
