"""From the names in `luthien.yaml` to a chain that can be run."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from luthien.config import PolicyConfig
from luthien.config_file import ConfigFile, Loc
from luthien.policies.builtin.add_system_message import AddSystemMessage
from luthien.policies.builtin.block_tools import BlockTools
from luthien.policies.builtin.judge import Judge
from luthien.policies.builtin.limit import Limit
from luthien.policies.builtin.noop import Noop
from luthien.policies.builtin.redact import Redact
from luthien.policies.builtin.replace_text import ReplaceText
from luthien.policies.builtin.webhook import Webhook
from luthien.policies.chain import Chain, Step
from luthien.policies.policy import Needs, Policy
from luthien.policies.reference import NotAPolicy, find_policy, installed
from luthien.policies.version import code_hash

BUILTIN: dict[str, type[Policy]] = {
    "add_system_message": AddSystemMessage,
    "block_tools": BlockTools,
    "judge": Judge,
    "limit": Limit,
    "noop": Noop,
    "redact": Redact,
    "replace_text": ReplaceText,
    "webhook": Webhook,
}

_VERSION = re.compile(r"[\w.-]{1,40}")


def load_chain(file: ConfigFile) -> Chain:
    """The chain that a configuration file describes.

    Raises:
        ConfigError: with line and key of every mistake in the policies.
    """
    steps = [configured_step(file, ("policies", index), entry) for index, entry in enumerate(file.config.policies)]
    file.check()
    return Chain(tuple(filter(None, steps)))


def configured_step(file: ConfigFile, at: Loc, entry: PolicyConfig) -> Step | None:
    """The step that stands at a place of a file; None when it is a mistake, which the file then knows."""
    try:
        policy = _find(entry.policy, file.path.parent)
        config = policy.Config.model_validate(dict(entry.config))
        step = make_step(_name(entry.policy, policy), policy, config, entry.config)
        return replace(step, fails_open=entry.on_error == "allow", is_shadow=entry.mode == "shadow")
    except ValidationError as error:
        file.blame(error, (*at, "config"))
    except (NotAPolicy, TypeError) as error:
        file.mistake((*at, "policy"), str(error))
    return None


def _find(reference: str, folder: Path) -> type[Policy]:
    if reference in BUILTIN:
        return BUILTIN[reference]
    if ":" in reference or reference in installed():
        return find_policy(reference, folder)
    known = ", ".join(sorted({*BUILTIN, *installed()}))
    if reference.endswith(".py"):
        raise NotAPolicy(f"{reference!r} names no class; write {reference}:MyPolicy")
    raise NotAPolicy(f"there is no policy {reference!r}; known are {known}")


def _name(reference: str, policy: type[Policy]) -> str:
    """How the policy is called in the record: where its code lies is nobody's business there."""
    return policy.__name__ if ":" in reference else reference


def make_step(name: str, policy: type[Policy], config: Any, source: Any = None) -> Step:
    """One step of a chain; `source` is its configuration as it was written.

    Raises:
        TypeError: the policy would let streams pass it by, overrides what is never called, or states a version that
            is none.
    """
    step = Step(name, _version(policy, source), policy, config, sides=frozenset(policy.sides(config)))
    _check_hooks(step)
    return step


def _check_hooks(step: Step) -> None:
    name, needs = step.policy.__name__, step.policy.needs
    if not isinstance(needs, Needs):
        raise TypeError(f"{name}.needs must be one of Needs.CHUNKS, Needs.BLOCKS, Needs.WHOLE, not {needs!r}")
    if needs is Needs.CHUNKS and step.overrides("on_response") and not step.overrides("on_chunk"):
        raise TypeError(f"{name} overrides on_response and must override on_chunk too, or say needs = Needs.WHOLE")
    asked = {step.response_hook, step.stream_hook}
    if needs is not Needs.CHUNKS and not step.overrides(step.stream_hook):
        raise TypeError(f"{name} needs {needs} and must override {step.stream_hook}")
    for hook in ("on_block", "on_response", "on_chunk", "on_stream_end", "stream_verdict"):
        if hook not in asked and step.overrides(hook) and not (needs is Needs.CHUNKS and hook != "on_block"):
            raise TypeError(f"{name} overrides {hook}, which is never called when it needs {needs}")


def _version(policy: type[Policy], source: Any) -> str:
    """The first 12 digits of a SHA-256 over the policy's code and its configuration.

    Of a policy that states a version: that, and 8 digits of a hash of the configuration.
    """
    stated: object = policy.version
    if stated is None:
        return _digest([code_hash(policy), source])[:12]
    if not isinstance(stated, str) or not _VERSION.fullmatch(stated):
        raise TypeError(f"{policy.__name__}.version must be up to 40 letters, digits, dots, dashes, not {stated!r}")
    return f"{stated}+{_digest(source)[:8]}"


def _digest(value: Any) -> str:
    try:
        text = json.dumps(value, sort_keys=True, default=str)
    except (ValueError, RecursionError):  # an alias of what it is part of
        raise TypeError("its configuration has no end") from None
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
