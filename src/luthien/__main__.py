"""`python -m luthien`."""

from luthien.cli import main

main()
