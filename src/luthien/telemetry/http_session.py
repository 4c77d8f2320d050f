"""The HTTP session of the exporters; a module of its own, for only who exports over HTTP is to load `requests`."""

from __future__ import annotations

from typing import Any

import requests


class BelievingSession(requests.Session):
    """Believes the certificate that it was told to believe; else `REQUESTS_CA_BUNDLE` would go before it."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        wanted = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, wanted, cert)
