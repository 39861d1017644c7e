"""A program that follows the events of an outcome log into a file, as replicas do: killed at any time, it goes on."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from llmrouter.exceptions import StoreError
from llmrouter.outcomes import open_store


def whole_lines(path: Path) -> list[str]:
    """Return what was written to the file; a last line that was cut off was not."""
    return path.read_bytes().decode().split("\n")[:-1] if path.exists() else []


def main(url: str, path: Path) -> None:
    """Follow the log for ever."""
    lines = whole_lines(path)
    cursor = lines[-1].split()[0] if lines else ""
    store = open_store(url)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(sum(len(line.encode()) + 1 for line in lines))
        file.seek(0, os.SEEK_END)
        while True:
            try:
                events = store.events(cursor, 20)
            except StoreError:
                events = []
            for event in events:
                file.write(f"{event.cursor} {event.outcome.request_id} {event.outcome.quality}\n".encode())
                cursor = event.cursor
            if events:
                file.flush()
                os.fsync(file.fileno())
            else:
                time.sleep(0.02)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
