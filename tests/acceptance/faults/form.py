"""How much of everything: short enough for every run of the tests, or full. The only reader of `FAULTS_*`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Form:
    """The measure of the scenarios; durations in seconds."""

    name: str
    clients: int
    """How many call at the same time."""
    load_s: float
    """How long they do where nothing else says."""
    outage_s: float
    """How long Postgres is away."""
    network_s: float
    """How long the network to Postgres is bad."""
    kills: int
    spools: int
    """How many gateways leave theirs to others."""


SHORT = Form("short", clients=6, load_s=0.5, outage_s=3.0, network_s=4.0, kills=3, spools=2)
FULL = Form("full", clients=16, load_s=8.0, outage_s=60.0, network_s=40.0, kills=20, spools=6)

FORM = {"short": SHORT, "full": FULL}[os.environ.get("FAULTS_FORM", "short")]

_FIGURES = os.environ.get("FAULTS_FIGURES")
FIGURES_DIR = Path(_FIGURES) if _FIGURES else None
"""Where the figures are written as JSON; nowhere when it is not set."""
