"""Directories that are built once, under a lock, and found again by the hash of what they were built from."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["cached", "content_key"]


def content_key(parts: Iterable[str | bytes | Path]) -> str:
    """Hash of texts, bytes and the contents of files, in order; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little") + content)  # the length keeps ("a", "bc") from ("ab", "c")
    return digest.hexdigest()[:16]


def cached(parent: Path, key: str, build: Callable[[Path], None]) -> Path:
    """Return the directory ``parent/key``, calling ``build`` to fill it if it is not there yet.

    Processes that want the same directory at the same time wait for the first one. The directory appears by a
    rename, so it is either complete or absent: an interrupted or failed build leaves nothing behind that a later
    one could mistake for a result.

    Parameters
    ----------
    parent : Path
        Directory that holds the built directories and their lock files.
    key : str
        Name of the directory, from `content_key`.
    build : callable
        Takes an empty directory, and fills it.
    """
    target = parent.resolve() / key
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            scratch = target.with_suffix(".partial")
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            build(scratch)
            os.rename(scratch, target)
    return target
