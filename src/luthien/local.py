"""What `luthien up` and the demo make on this machine where the settings have none: a database and a debug token."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from luthien.debug.signin import new_token
from luthien.errors import ConfigError
from luthien.settings import Settings
from luthien.store.migrate import migrate


@contextmanager
def local_settings(settings: Settings, say: Callable[[str], None]) -> Iterator[Settings]:
    """The settings with a migrated database and a debug token in them, both made here where none is given."""
    with _database(settings, say) as dsn:
        migrate(dsn, progress=say)
        token = settings.debug_token or SecretStr(_kept_token(settings.data_dir / "debug-token"))
        yield settings.model_copy(update={"database_url": SecretStr(dsn), "debug_token": token})


@contextmanager
def _database(settings: Settings, say: Callable[[str], None]) -> Iterator[str]:
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    from luthien.store.embedded import embedded_postgres  # Unix only, and what `serve` never needs

    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with embedded_postgres(settings.data_dir / "postgres", progress=say) as dsn:
        yield dsn


def _kept_token(path: Path) -> str:
    """The token in that file, which only its owner can read; made when there is none."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(new_token())
    except FileExistsError:
        pass
    token = path.read_text().strip()
    if not token:
        raise ConfigError(f"{path} is empty: remove it, and Luthien makes a new token")
    return token
