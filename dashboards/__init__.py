"""Grafana's dashboards, written here as Python and beside it as the JSON that Grafana is given.

`make docs` (`python -m dashboards`) writes the JSON anew; a test fails when it is stale.
"""
