"""Every client against a real model, through the gateway: what it was told is what the record has."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from luthien.demo.model import local_model
