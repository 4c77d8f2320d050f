"""What the diff engine is made of: values, operations, pairing, words. `debug.align` and `debug.diff` are its face. Pure."""
