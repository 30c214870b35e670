"""What the demo and the measurements share: progress lines, tables, and files that are written whole or not at all."""

import csv
import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Table", "announced", "to_csv", "write_whole"]

REMINDER_SECONDS = 10.0


class Table:
    """A table that is printed row by row, as the rows become known.

    Parameters
    ----------
    columns : mapping of str to int
        Heading and width of each column; a negative width aligns to the left.
    """

    def __init__(self, columns: Mapping[str, int]) -> None:
        self.columns = dict(columns)

    def line(self, cells: Sequence[object]) -> str:
        """The cells of a row, aligned."""
        return " ".join(str(cell).ljust(-width) if width < 0 else str(cell).rjust(width)
                        for cell, width in zip(cells, self.columns.values(), strict=True)).rstrip()

    def head(self) -> str:
        """The headings and a rule below them."""
        return "\n".join([self.line(list(self.columns)),
                          self.line(["-" * abs(width) for width in self.columns.values()])])


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Print what is being done, a reminder every ten seconds while it lasts, and how long it took."""
    print(f"{what} ...", flush=True)
    started = time.perf_counter()
    finished = threading.Event()

    def remind() -> None:
        while not finished.wait(REMINDER_SECONDS):
            print(f"    ... {time.perf_counter() - started:.0f} s", flush=True)

    thread = threading.Thread(target=remind, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
    print(f"    done in {time.perf_counter() - started:.1f} s", flush=True)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows that all have the same names, as CSV with a heading."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, meets the old one or the new one but never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            file.write(data)
            file.close()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
