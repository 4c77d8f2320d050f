"""Which policies a call goes through: those of the first group that matches it, or the default ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path

from luthien.config import Config, GroupConfig, GroupPolicyConfig, MatchConfig, PolicyConfig
from luthien.config_file import ConfigFile, Loc
from luthien.formats.registry import FORMATS
from luthien.policies.chain import Chain
from luthien.policies.registry import configured_step
from luthien.policies.step import Step

DEFAULT = "default"
"""What groups call the policies of calls that no group takes."""

_ROUTES = tuple(each.path for each in FORMATS)


@dataclass(frozen=True, slots=True)
class Match:
    """What must hold of a call; None asks nothing."""

    models: re.Pattern[str] | None = None
    routes: frozenset[str] | None = None
    keys: frozenset[str] | None = None

    @classmethod
    def of(cls, group: GroupConfig) -> Match:
        wanted = group.match
        return cls(
            models=None if wanted.models is None else re.compile("|".join(map(translate, wanted.models))),
            routes=None if wanted.routes is None else frozenset(wanted.routes),
            keys=None if wanted.keys is None else frozenset(wanted.keys),
        )

    def holds(self, model: str | None, route: str, key: str | None) -> bool:
        return (
            (self.routes is None or route in self.routes)
            and (self.keys is None or key in self.keys)
            and (self.models is None or (model is not None and self.models.match(model) is not None))
        )


@dataclass(frozen=True, slots=True)
class Group:
    """The chain of some calls. The default one has no name."""

    name: str | None
    chain: Chain
    match: Match = Match()


NO_POLICIES = Group(None, Chain())


@dataclass(frozen=True, slots=True)
class Groups:
    """Every chain of a configuration."""

    default: Group = NO_POLICIES
    named: tuple[Group, ...] = ()

    def of(self, model: str | None, route: str, key: str | None) -> Group:
        """The group of a call, by the model that its client asks for, its path and the name of its gateway key."""
        return next((group for group in self.named if group.match.holds(model, route, key)), self.default)

    def chains(self) -> Iterator[Chain]:
        for group in (self.default, *self.named):
            yield group.chain


def load_groups(file: ConfigFile) -> Groups:
    """All chains that a configuration file describes; its `check` raises the mistakes that were found in them."""
    lists = {DEFAULT: _steps(file, ("policies",), file.config.policies, {})}
    named: list[Group] = []
    for index, group in enumerate(file.config.groups):
        at = ("groups", index)
        if group.name in lists:
            why = "means the policies of calls that no group takes" if group.name == DEFAULT else "is taken"
            file.mistake((*at, "name"), f"{group.name!r} {why}")
        _check_match(file, at, group)
        steps = _steps(file, (*at, "policies"), group.policies, lists)
        lists.setdefault(group.name, steps)
        named.append(Group(group.name, Chain(steps), Match.of(group)))
    return Groups(Group(None, Chain(lists[DEFAULT])), tuple(named))


def _steps(
    file: ConfigFile, at: Loc, entries: Sequence[PolicyConfig], lists: dict[str, tuple[Step, ...]]
) -> tuple[Step, ...]:
    steps: list[Step] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, GroupPolicyConfig) and entry.use:
            if entry.use not in lists:
                known = ", ".join(lists)
                file.mistake(
                    (*at, index, "use"), f"there is no group {entry.use!r} before this one; there are {known}"
                )
            steps += lists.get(entry.use, ())
        elif step := configured_step(file, (*at, index), entry):
            steps.append(step)
    return tuple(steps)


def _check_match(file: ConfigFile, at: Loc, group: GroupConfig) -> None:
    known_keys = [key.name for key in file.config.keys]
    for index, route in enumerate(group.match.routes or ()):
        if route not in _ROUTES:
            message = f"policies do not look at {route!r}; they look at {', '.join(_ROUTES)}"
            file.mistake((*at, "match", "routes", index), message)
    for index, key in enumerate(group.match.keys or ()):
        if key not in known_keys:
            message = f"there is no key {key!r}; known are {', '.join(known_keys) or 'none'}"
            file.mistake((*at, "match", "keys", index), message)


def policy_files(file: ConfigFile) -> list[Path]:
    """The files of policies that a configuration names, once each, in its order."""
    entries: list[PolicyConfig] = [*file.config.policies]
    for group in file.config.groups:
        entries += group.policies
    found = (entry.policy.rpartition(":")[0] for entry in entries)
    return [file.path.parent / name for name in dict.fromkeys(found) if name.endswith(".py")]


def unreachable(config: Config) -> Iterator[tuple[GroupConfig, GroupConfig]]:
    """Groups that never match, each with one before it that takes all of its calls."""
    takers: list[_Taker] = []
    for group in config.groups:
        taker = next((each for each in takers if each.takes_all_of(group.match)), None)
        if taker is not None:
            yield group, taker.group
        takers.append(_Taker(group))


class _Taker:
    """A group, and what it takes from those behind it."""

    def __init__(self, group: GroupConfig) -> None:
        self.group = group
        match = group.match
        self._models = None if match.models is None else frozenset(match.models)
        plain = [glob for glob in match.models or () if not set("?[]") & set(glob)]
        self._plain = re.compile("|".join(map(translate, plain))) if plain else None

    def takes_all_of(self, later: MatchConfig) -> bool:
        earlier = self.group.match
        return (
            _covers(earlier.routes, later.routes, _ROUTES)
            and _covers(earlier.keys, later.keys, ())
            and (self._models is None or self._covers_models(self._models, later.models))
        )

    def _covers_models(self, earlier: frozenset[str], later: Sequence[str] | None) -> bool:
        """Certain when it says yes: a glob of stars alone covers what it matches, wildcards and all."""
        if later is None:
            return False  # a request may ask for no model at all
        return all(glob in earlier or (self._plain is not None and self._plain.match(glob)) for glob in later)


def _covers(earlier: Sequence[str] | None, later: Sequence[str] | None, everything: Sequence[str]) -> bool:
    if earlier is None:
        return True
    wanted = everything if later is None else later
    return bool(wanted) and set(wanted) <= set(earlier)
