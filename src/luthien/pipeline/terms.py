"""What one call goes by from its beginning to its end, whatever is configured meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, replace

from luthien.errors import ClientError
from luthien.policies.groups import Groups
from luthien.telemetry import conventions as names
from luthien.upstream.client import UpstreamClient


@dataclass(frozen=True, slots=True)
class Terms:
    upstream: UpstreamClient
    groups: Groups
    version: str
    """Of the configuration."""
    key: str | None = None
    """The name of the gateway key that the client came with."""
    refusal: ClientError | None = None
    """Why the request is not even read."""

    def of_child(self) -> Terms:
        """What a call that a policy makes goes by: no policy looks at it."""
        return replace(self, groups=Groups(), refusal=None)

    @property
    def marks(self) -> dict[str, str]:
        """What the record of the call says of them, by attribute."""
        marks = {names.CONFIG_VERSION: self.version}
        return marks if self.key is None else marks | {names.GATEWAY_KEY: self.key}
