"""Faults: real processes under load while something is taken from them, and what the record then has.

The client keeps a ledger of all that it received, and the ledger is compared with Postgres: docs/reliability.md.
"""
