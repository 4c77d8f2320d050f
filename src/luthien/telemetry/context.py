"""Where a span finds the id of its call.

The id lives in a ContextVar, which follows the request's task, and in the OpenTelemetry context, which
follows an explicit parent into other threads and child calls.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from uuid import UUID

from opentelemetry.context import Context, create_key, get_value, set_value

_IN_TASK: ContextVar[str | None] = ContextVar("luthien_call_id", default=None)
_IN_CONTEXT = create_key("luthien.call_id")


def enter_call(call_id: UUID) -> Token[str | None]:
    """Makes `call_id` the id of every span started in this task; `leave_call` undoes it."""
    return _IN_TASK.set(str(call_id))


def leave_call(token: Token[str | None]) -> None:
    _IN_TASK.reset(token)


def with_call_id(call_id: UUID, context: Context) -> Context:
    return set_value(_IN_CONTEXT, str(call_id), context)


def call_id_in(parent: Context | None) -> str | None:
    """The id for a span that starts under `parent`, which knows better than the task."""
    found = get_value(_IN_CONTEXT, parent) if parent is not None else get_value(_IN_CONTEXT)
    return found if isinstance(found, str) else _IN_TASK.get()
