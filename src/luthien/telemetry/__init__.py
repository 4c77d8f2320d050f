"""Spans, metrics and logs: what they are called, where they go, and what never leaves the process."""
