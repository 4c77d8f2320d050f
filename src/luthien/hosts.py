"""Hosts as people list them in a setting."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HOST = re.compile(r"(?P<host>(\*\.)?[a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class HostPattern:
    """A host, or with `*.` all below one; of any port if it names none."""

    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> HostPattern:
        """From `example.com`, `*.example.com`, `example.com:8443` or `[::1]`. Raises ValueError."""
        match = _HOST.fullmatch(text.strip().lower())
        port = int(match["port"]) if match and match["port"] else None
        if match is None or port == 0 or (port or 0) > 65535:
            raise ValueError(f"{text.strip()!r} is no host; write example.com, *.example.com or example.com:8443")
        return cls(match["host"].strip("[]"), port)

    def matches(self, host: str, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        return host.endswith(self.host[1:]) if self.host.startswith("*.") else host == self.host
