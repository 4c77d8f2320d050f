"""The wheel carries everything that is not Python."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_has_migrations_queries_and_pages(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, timeout=170)
    [wheel] = tmp_path.glob("luthien-*.whl")
    packed = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    expected = {
        Path("luthien") / path.relative_to(base)
        for base in (ROOT, ROOT / "src" / "luthien")
        for pattern in ("prisma/**/*.sql", "prisma/**/*.toml", "store/*.sql", "debug/*/*.html", "debug/static/*")
        for path in base.glob(pattern)
    }
    assert len(expected) > 8
    assert expected - packed == set()
    assert Path("luthien/py.typed") in packed
