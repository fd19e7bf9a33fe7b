"""How far a set is, on stderr: a bar with the time left where a person watches, else a line now and then."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from time import perf_counter
from types import TracebackType
from typing import Any

_EVERY_S = 10.0


class Teller:
    """A context that tells of `total` samples of the set `name`."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._done = self._at_start = self._deaths = 0
        self._begun = self._last = perf_counter()
        self._bar: Any = None
        self._task: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> Teller:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = self._stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
            self._task = self._bar.add_task(self._name, total=self._total)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stack.close()

    def line(self, text: str) -> None:
        """A line of its own."""
        if self._bar is not None:
            self._bar.console.print(f"twinbeam: {self._name}: {text}", markup=False, highlight=False)
        else:
            sys.stderr.write(f"twinbeam: {self._name}: {text}\n")
            sys.stderr.flush()

    def begin(self, kept: int) -> None:
        """What was there before. The clock starts."""
        self._done = self._at_start = kept
        self._begun = self._last = perf_counter()
        if kept:
            self.line(f"{kept} of {self._total} samples are there already")
        if self._bar is not None:
            self._bar.update(self._task, completed=kept)

    def advance(self, samples: int, deaths: int) -> None:
        """So many samples more; deaths: of workers so far."""
        self._done += samples
        if deaths > self._deaths:
            self._deaths = deaths
            self.line("a worker died and was replaced")
        now = perf_counter()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
        elif now - self._last >= _EVERY_S:
            self._last = now
            rate = (self._done - self._at_start) / (now - self._begun)
            left = _told((self._total - self._done) / rate)
            self.line(f"{self._done} of {self._total} samples, {rate:.0f} a second, {left} left")


def _told(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
