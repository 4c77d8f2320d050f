"""Several calls: the conversation that they are, and two of them compared. Pure."""
