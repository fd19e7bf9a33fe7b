"""Options that follow a file's name: `BS3_UE_0-6320.mat?shape=16x8&rotation=0,0,-135`.

They say what the file does not. A name that has a question mark in it and exists is a name, not an option.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

from ingest.errors import UsageRefused


@dataclass
class Options:
    """Options by name, as text. Every reader takes those that it knows; `done` refuses what is left."""

    where: str
    values: dict[str, str] = field(default_factory=dict)
    _known: list[str] = field(default_factory=list)

    def text(self, name: str, default: str | None = None) -> str | None:
        self._known.append(name)
        return self.values.pop(name, default)

    def number(self, name: str, default: float, least: float, most: float) -> float:
        """A number within least … most."""
        (value,) = self.numbers(name, (default,), least, most)
        return value

    def numbers(self, name: str, default: tuple[float, ...], least: float, most: float) -> tuple[float, ...]:
        """As many numbers as the default has, separated by commas or `x`."""
        told = self.text(name)
        if told is None:
            return default
        try:
            values = tuple(float(part) for part in told.replace("x", ",").split(","))
        except ValueError:
            values = ()
        if len(values) != len(default) or not all(math.isfinite(value) and least <= value <= most for value in values):
            what = f"{len(default)} number(s) from {least:g} to {most:g}"
            raise UsageRefused(f"option {name}={told[:40]} is not {what}", where=self.where)
        return values

    def integers(self, name: str, default: tuple[int, ...], least: int, most: int) -> tuple[int, ...]:
        values = self.numbers(name, default, least, most)
        if any(value != int(value) for value in values):
            raise UsageRefused(f"option {name} needs whole numbers", where=self.where)
        return tuple(int(value) for value in values)

    def selection(self, name: str, default: str) -> slice:
        """`start:stop:step` of whole numbers as Python writes it, or one number."""
        told = self.text(name, default) or default
        try:
            parts = [int(part) if part else None for part in told.split(":")]
        except ValueError:
            parts = []
        if not 1 <= len(parts) <= 3 or any(part is not None and part < 0 for part in parts) or parts[2:] == [0]:
            raise UsageRefused(f"option {name}={told[:40]} is not start:stop:step", where=self.where)
        return slice(parts[0], (parts[0] or 0) + 1) if len(parts) == 1 else slice(*parts)

    def done(self) -> None:
        """Refuse options that nobody took."""
        if self.values:
            known = ", ".join(sorted(self._known)) or "none"
            raise UsageRefused(f"unknown option '{next(iter(self.values))}'", where=self.where, mend=f"known: {known}")


def split_options(name: str) -> tuple[Path, Options]:
    """The file that `name` names, and the options behind it."""
    path = Path(name)
    stem, mark, query = name.rpartition("?")
    try:
        if not mark or "=" not in query or path.exists():
            return path, Options(name)
    except (OSError, ValueError):  # no file has such a name
        return path, Options(name)
    pairs = parse_qsl(query, keep_blank_values=True)
    if len({key for key, _ in pairs}) < len(pairs):
        raise UsageRefused("an option stands there twice", where=name)
    return Path(stem), Options(stem, dict(pairs))
