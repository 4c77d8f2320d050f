"""How payloads, diffs and times are laid out for readers: rows, folds, marks and drawings. Pure."""
