"""What can go wrong, split by who must act."""

from __future__ import annotations


class LuthienError(Exception):
    """Something Luthien says in words; `str(error)` is fit to be shown to whoever must act."""


class ConfigError(LuthienError):
    """The operator must mend the configuration; nothing was started."""


class StoreError(LuthienError):
    """What is stored cannot be read or written. Never reaches a client of the gateway."""

    title = "This cannot be read just now"
    """For the page that says so."""


class StoreAway(StoreError):
    """Postgres, or the way to it, failed."""

    title = "The database is away"


class StoreBusy(StoreError):
    """All is well, and too much is asked for at once."""

    title = "Too much is asked for at once"


class CallError(LuthienError):
    """Ends a call; becomes a response in the shape of the call's wire format.

    `status` is the HTTP status, `code` a short stable name (it is recorded as the call's `error_type`).
    """

    status = 500
    code = "gateway_error"

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = self.status if status is None else status
        self.code = self.code if code is None else code


class ClientError(CallError):
    """The client must act: its request cannot be forwarded (4xx)."""

    status = 400
    code = "invalid_request"


class UpstreamError(CallError):
    """The provider could not be reached, was too slow or broke its own protocol (502, 504)."""

    status = 502
    code = "upstream_unreachable"


class PolicyFailure(CallError):
    """A policy broke. The call fails closed: nothing that the policy should have seen goes on."""

    status = 500
    code = "policy_error"
