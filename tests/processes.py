"""The command line as a person uses it: processes of their own, ended with certainty."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE_S = 300.0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "twinbeam", *arguments]


def call(
    *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """One command to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_S,
        check=False,
    )


def last_json(stdout: str) -> dict[str, Any]:
    """What `--json` promises: the last line of stdout is one JSON object."""
    found = json.loads(stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@dataclass
class Running:
    """A command that runs: its log, line by line as it comes, and its end."""

    process: subprocess.Popen[str]
    log: list[dict[str, Any]] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def read_log(self) -> None:
        """Collect stderr until it closes: JSON lines, and others."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.other.append(line)

    def until_logged(self, event: str) -> dict[str, Any]:
        """The first log line of that event."""
        self.until(lambda: self.process.poll() is not None or any(line["event"] == event for line in self.log), event)
        return next(line for line in self.log if line["event"] == event)

    def until(self, happened: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < give_up, f"waited in vain for {what}"
            time.sleep(0.05)

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; exit code and stdout."""
        self.process.send_signal(number)
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        return self.process.wait(timeout=PATIENCE_S), out


def children_of(pid: int) -> list[int]:
    """Processes that `pid` has started, and runs Python's multiprocessing in."""
    children = [
        int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
    ]
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@contextmanager
def running(*arguments: str, folder: Path) -> Iterator[Running]:
    """A command in the background; killed in the end if it still runs."""
    process = subprocess.Popen(
        command(*arguments), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    started = Running(process)
    reader = threading.Thread(target=started.read_log, daemon=True)
    reader.start()
    try:
        yield started
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=PATIENCE_S)
        reader.join(timeout=PATIENCE_S)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
