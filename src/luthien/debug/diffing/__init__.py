"""What the diff engine is made of; `debug.align` and `debug.diff` are its face. Pure."""
