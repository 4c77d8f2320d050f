"""Real clients against the gateway, and against the provider without it: the same must come of both."""

import pytest

pytest.register_assert_rewrite("tests.integration.clients.adversity", "tests.integration.clients.treatment")
