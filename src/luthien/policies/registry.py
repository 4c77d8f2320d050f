"""From the names in `luthien.yaml` to a chain that can be run."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import Any

from pydantic import ValidationError

from luthien.config import ConfigFile
from luthien.policies.builtin.add_system_message import AddSystemMessage
from luthien.policies.builtin.limit import Limit
from luthien.policies.builtin.noop import Noop
from luthien.policies.builtin.redact import Redact
from luthien.policies.builtin.replace_text import ReplaceText
from luthien.policies.chain import Chain, Step
from luthien.policies.policy import Policy

BUILTIN: dict[str, type[Policy]] = {
    "add_system_message": AddSystemMessage,
    "limit": Limit,
    "noop": Noop,
    "redact": Redact,
    "replace_text": ReplaceText,
}


def load_chain(file: ConfigFile) -> Chain:
    """The chain that a configuration file describes.

    Raises:
        ConfigError: with line and key of every mistake in the policies.
    """
    steps: list[Step] = []
    for index, entry in enumerate(file.config.policies):
        policy = BUILTIN.get(entry.policy)
        if policy is None:
            known = ", ".join(sorted(BUILTIN))
            file.mistake(("policies", index, "policy"), f"there is no policy {entry.policy!r}; known are {known}")
            continue
        try:
            config = policy.Config.model_validate(dict(entry.config))
        except ValidationError as error:
            file.blame(error, ("policies", index, "config"))
            continue
        steps.append(make_step(entry.policy, policy, config, entry.config))
    file.check()
    return Chain(tuple(steps))


def make_step(name: str, policy: type[Policy], config: Any, source: Any = None) -> Step:
    """One step of a chain.

    Raises:
        TypeError: the policy reads responses but would let streams pass it by.
    """
    step = Step(name, _version(policy, source), policy, config)
    if step.overrides("on_response") and not step.overrides("on_chunk"):
        raise TypeError(f"{policy.__name__} overrides on_response and must override on_chunk too")
    return step


def _version(policy: type[Policy], source: Any) -> str:
    """The first 12 digits of a SHA-256 over the policy's module and its configuration."""
    module = inspect.getmodule(policy)
    code = inspect.getsource(module) if module is not None else policy.__qualname__
    text = json.dumps([code, source], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
