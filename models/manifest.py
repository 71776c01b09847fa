"""Write MANIFEST: the sha256 of every model and data file in this folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

HERE = Path(__file__).parent


def write_manifest() -> None:
    """One line a file, as `sha256sum -c MANIFEST` reads it, in the order of their names."""
    files = sorted(file for file in HERE.iterdir() if file.suffix in (".onnx", ".npz"))
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (HERE / "MANIFEST").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write_manifest()
