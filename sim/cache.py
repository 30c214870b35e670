"""Directories that are built once, under a lock, and found again by the hash of what they were built from."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["cached", "content_key", "locked"]


def content_key(parts: Iterable[str | bytes | Path]) -> str:
    """Hash of texts, bytes and the contents of files, in order; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little") + content)  # the length keeps ("a", "bc") from ("ab", "c")
    return digest.hexdigest()[:16]


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of a directory, which need not exist; other processes that want it wait."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{target}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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
    with locked(target):
        if not target.is_dir():
            scratch = Path(f"{target}.partial")
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            build(scratch)
            os.rename(scratch, target)
    return target
