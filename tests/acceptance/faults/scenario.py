"""Saying what a scenario found."""

from __future__ import annotations

from tests.acceptance.faults.account import Account
from tests.acceptance.faults.deployment import Deployment
from tests.acceptance.faults.figures import Figures, publish


def report(number: int, scenario: str, found: Account, deployment: Deployment, remark: str = "") -> None:
    """Publishes the figures, before anything is asserted of them."""
    ledger = found.ledger
    publish(
        Figures(
            number,
            scenario,
            calls=len(ledger.calls),
            unanswered=sum(each.call_id is None for each in ledger.calls),
            cut=len(ledger.cut),
            responses=len(ledger.whole),
            stored=found.stored,
            lost=len(found.lost),
            duplicated=len(found.duplicated),
            peak_mib=round(deployment.peak_bytes / 1024**2),
            remark=remark,
        )
    )
