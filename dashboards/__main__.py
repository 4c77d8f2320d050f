"""Writes every dashboard's JSON beside its source."""

from __future__ import annotations

from dashboards.written import written

for path, text in written().items():
    path.write_text(text, encoding="utf-8")
