"""The stack around the gateway: what can be held against it without an engine that runs containers."""
