"""Streams as providers send them, each with the response that it means."""
