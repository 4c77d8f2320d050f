"""Which recorded policy step made each operation of a diff, and what policies in shadow would have done. Pure."""
