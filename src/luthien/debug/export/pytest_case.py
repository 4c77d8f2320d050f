"""A call as a test for pytest: the recorded request and response through the policies, and what comes out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from luthien.debug.call.call_view import CallView
from luthien.debug.export.fixture import as_fixture
from luthien.exchange import EventType
from luthien.formats.credentials import MASK

_TEST = '''"""{title}

It runs with pytest in the folder of luthien.yaml, or anywhere with LUTHIEN_CONFIG set to it. No provider is asked:
what it answered is in the case, and so is what the policies made of it.
{notes}"""

from luthien.testing import Case, lines, play

CASE = Case.from_json(
    r\'\'\'
{case}
\'\'\'
)


def test_call_{name}() -> None:
    played = play(CASE)
    assert (played.blocked_by, played.broken_by) == (CASE.blocked_by, CASE.broken_by), played.reasons
    assert lines(played.request) == lines(CASE.request_after)
    assert lines(played.response) == lines(CASE.response_after)
'''


def as_pytest(view: CallView, asked: Sequence[CallView] = ()) -> str:
    """The text of the file. Raises NotInRecord as `as_fixture` does."""
    case = as_fixture(view, asked)
    # In JSON, an apostrophe stands in strings only: none can end the literal.
    text = json.dumps(case, indent=2).replace("'", "\\u0027")
    return _TEST.format(
        title=f"What its policies made of the call {view.call_id}, as it was recorded.",
        notes="".join(f"\n{note}\n" for note in _notes(view, case)),
        case=text,
        name=view.call_id.hex,
    )


def _notes(view: CallView, case: dict[str, Any]) -> list[str]:
    notes = []
    if view.configuration is not None:
        notes.append(f"The version of the configuration was {view.configuration}.")
    request = view.stages[EventType.REQUEST_ORIGINAL].record
    if request is not None and request.attributes.get("luthien.credentials_masked") is True:
        notes.append(f"Credentials in the bodies stand as {MASK}.")
    if view.children:
        notes.append("What its policies asked of models is answered as it was then.")
    if any(each["shadow"] for each in case["policies"]):
        notes.append("Some of its policies were in shadow, and changed nothing.")
    return notes
