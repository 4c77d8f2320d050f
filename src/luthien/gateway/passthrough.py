"""Everything below /v1/ that is no call: passed through if it is on the list, else refused."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from luthien.errors import ClientError
from luthien.formats.format import WireFormat
from luthien.formats.registry import ANTHROPIC_MESSAGES, FORMATS, OPENAI_CHAT
from luthien.gateway.boundary import SCOPE_CALL_ID
from luthien.gateway.live import InUse, Live
from luthien.open_paths import is_never_open, normal_path, open_pattern
from luthien.pipeline.client import Client
from luthien.pipeline.passage import Passenger, Passthrough

_SHOWN_CHARS = 200
# Paths that only one of the providers has; the rest goes to whom the credentials are for.
_OWNED = {"/v1/messages": ANTHROPIC_MESSAGES, "/v1/embeddings": OPENAI_CHAT}


class PassthroughEndpoint:
    """Both are asked for at each call: they are there only while the app runs."""

    def __init__(self, passthrough: Callable[[], Passthrough], live: Callable[[], Live]) -> None:
        self._passthrough = passthrough
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = Client(scope, receive, send)
        with self._live().call() as taken:
            await self._answer(scope, client, taken)

    async def _answer(self, scope: Scope, client: Client, taken: InUse) -> None:
        method: str = scope["method"]
        path = normal_path(scope.get("raw_path") or scope["path"].encode())
        shape = addressed_format(client)
        terms = taken.admit(client, shape.provider)
        open_paths = taken.configuration.config.passthrough
        template = None if path is None else open_pattern(open_paths, method, path)
        if path is None or template is None:
            passenger = Passenger(shape, method, path or "", "")
            refusal: ClientError | None = _refusal(method, path, scope["path"])
        else:
            passenger = Passenger(shape, method, path, template, _withheld(client, shape))
            refusal = _misdirected(path, client, shape)
        await self._passthrough().run(scope[SCOPE_CALL_ID], passenger, client, terms, terms.refusal or refusal)


def addressed_format(client: Client) -> WireFormat:
    """The format of the provider that the client's authentication headers are for."""
    is_anthropic = client.header(b"anthropic-version") is not None or client.header(b"x-api-key") is not None
    return ANTHROPIC_MESSAGES if is_anthropic else OPENAI_CHAT


def _withheld(client: Client, wire_format: WireFormat) -> frozenset[bytes]:
    """With two credentials, only that one goes on which is certain to be the provider's own."""
    has_key = wire_format is ANTHROPIC_MESSAGES and client.header(b"x-api-key") is not None
    return frozenset({b"authorization"}) if has_key else frozenset()


def _misdirected(path: str, client: Client, addressed: WireFormat) -> ClientError | None:
    """Why a path of one provider is not asked with the credentials of another."""
    owner = next((each for prefix, each in _OWNED.items() if f"{path}/".startswith(f"{prefix}/")), addressed)
    if owner is addressed:
        return None
    wanted = "anthropic-version" if owner is ANTHROPIC_MESSAGES else "authorization, and none of Anthropic's"
    message = f"{path} belongs to {owner.provider}, whose clients send the header {wanted}"
    return ClientError(message, status=400, code="wrong_provider")


def _refusal(method: str, path: str | None, shown: str) -> ClientError:
    if path is None:
        message = f"{method} {shown[:_SHOWN_CHARS]!a} is not passed on: the path is not in its plain form"
        return ClientError(message, status=403, code="path_not_plain")
    served = ", ".join(f"POST {each.path}" for each in FORMATS)
    if is_never_open(path):
        message = (
            f"{method} {path[:_SHOWN_CHARS]} is never passed on, since policies would not see it; served: {served}"
        )
    else:
        message = (
            f"{method} {path[:_SHOWN_CHARS]} is not passed on, since policies would not see it; to open it, add"
            f' "{method} {path[:_SHOWN_CHARS]}" to the list `passthrough` in luthien.yaml; served: {served}'
        )
    return ClientError(message, status=403, code="path_not_open")
