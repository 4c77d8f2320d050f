"""What `redact` finds, how it is told from what only looks like it, and what is put in its place."""
