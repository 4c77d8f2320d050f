"""The console script `luthien`, and `python -m luthien`."""

from __future__ import annotations

import sys

from luthien.errors import ConfigError
from luthien.settings import check_propagators


def main() -> None:
    try:
        check_propagators()
    except ConfigError as error:
        sys.exit(f"luthien: {error}")
    from luthien.cli import main as run

    run()


if __name__ == "__main__":
    main()
