"""Changes good input: raw bytes, text, JSON and TOML. What wraps these in lengths and checksums is in `formats.py`.

A mutator takes bytes and a `random.Random`, and gives other bytes; it takes any bytes whatever and never raises.
"""

from __future__ import annotations

import json
import math
import struct
import tomllib
from collections.abc import Callable
from random import Random
from typing import Any

Mutator = Callable[[bytes, Random], bytes]

NUMBERS = (
    0, 1, 2, 3, 7, 127, 128, 255, 256, 32767, 65535, 65536, 1 << 20, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
    2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 10**30, -1, -2, -(2**31), -(2**63), -(2**63) - 1,
)  # fmt: skip
FLOATS = (
    0.0,
    -0.0,
    1e-320,
    0.1,
    1.5,
    1e9,
    1e20,
    1e38,
    3.5e38,
    1e300,
    1.7e308,
    -1.0,
    -1e308,
    math.inf,
    -math.inf,
    math.nan,
)
TEXTS = (
    "", " ", "\0", "\n", "..", "../x", "/dev/zero", "a" * 65, "x" * 5000, "é", "\ud800", "𝄞", "nan", "-1", "1e400",
    "null", "[]", "%s%n", "$ref", "core:", "cf32_le", "2026-11-23T09:00:00Z", "٣", "C:\\x",
)  # fmt: skip


def damage(data: bytes, rng: Random) -> bytes:
    """One to four changes of bytes: some overwritten, numbers put in, parts left out, doubled, moved."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, count = rng.randrange(len(changed) + 1), rng.choice((1, 2, 4, 8, 32, 200))
        match rng.randrange(8):
            case 0 | 1:
                changed[at : at + 1] = bytes([rng.choice((0, 255, 32, 128, rng.randrange(256)))])
            case 2 | 3:
                number = packed_number(rng)
                changed[at : at + len(number)] = number
            case 4:
                del changed[at : at + count]
            case 5:
                changed[at:at] = changed[at : at + count]
            case 6:
                to = rng.randrange(len(changed) + 1)
                changed[to : to + count] = changed[at : at + count]
            case _:
                del changed[at:]
    return bytes(changed)


def overwrite(data: bytes, rng: Random) -> bytes:
    """Numbers written over what is there; the length stays."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4)) if data else 0):
        at, number = rng.randrange(len(changed)), packed_number(rng)
        changed[at : at + len(number)] = number[: len(changed) - at]
    return bytes(changed)


def packed_number(rng: Random) -> bytes:
    """A number that parsers stumble over, as 1 to 8 bytes of either order, or as a float."""
    order, size = rng.choice("<>"), rng.choice((1, 2, 4, 8))
    if rng.random() < 0.15:
        value = rng.choice([one for one in FLOATS if size == 8 or not 1e38 < abs(one) < math.inf])
        return struct.pack(order + ("d" if size == 8 else "f"), value)
    number = rng.choice((*NUMBERS, rng.randrange(1 << 8 * size))) % (1 << 8 * size)
    return number.to_bytes(size, "little" if order == "<" else "big")


def a_value(rng: Random, depth: int = 0) -> Any:
    """Something that may stand in JSON, and mostly should not stand there."""
    match rng.randrange(9 if depth < 3 else 6):
        case 0 | 1:
            return rng.choice(NUMBERS)
        case 2:
            return rng.choice(FLOATS)
        case 3:
            return rng.choice(TEXTS)
        case 4:
            return rng.choice((None, True, False))
        case 5:
            return rng.choice(([], {}, [[]], [{}], {"": None}))
        case 6:
            return [a_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case 7:
            return {rng.choice(TEXTS): a_value(rng, depth + 1) for _ in range(rng.randrange(3))}
    nested: Any = 0
    for _ in range(rng.choice((5, 40, 3000))):
        nested = [nested]
    return nested


def change_tree(tree: Any, rng: Random, value: Callable[[Random], Any] = a_value) -> Any:
    """`tree`, of dictionaries and lists, with one to three places changed; it may be changed itself."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        slots = list(_slots(tree))
        if not slots or rng.random() < 0.01:
            return value(rng)
        home, key = rng.choice(slots)
        _change_slot(home, key, rng, value)
    return tree


def _slots(tree: Any) -> Any:
    """Every (container, key) in `tree`."""
    waiting = [tree]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict | list):
            for key in here if isinstance(here, dict) else range(len(here)):
                yield here, key
                waiting.append(here[key])


def _change_slot(home: Any, key: Any, rng: Random, value: Callable[[Random], Any]) -> None:
    old = home[key]
    match rng.randrange(8):
        case 0:
            del home[key]
        case 1 if isinstance(home, list):
            home.insert(key, old)
        case 1:
            home[rng.choice(TEXTS)] = home.pop(key)
        case 2 if isinstance(old, str) and old:
            at = rng.randrange(len(old))
            home[key] = old[:at] + rng.choice(TEXTS) + old[at + rng.randrange(3) :]
        case 2 | 3 if isinstance(old, int | float):
            home[key] = rng.choice((-old, old + 1, old * 1000, old / 7, 1e12 * old, str(old), [old]))
        case _:
            home[key] = value(rng)


def dumps(tree: Any) -> bytes:
    """JSON as Python writes it, NaN and lone surrogates with it."""
    try:
        return json.dumps(tree).encode()
    except (RecursionError, ValueError, TypeError):
        return b"[" * 3000


def change_json(data: bytes, rng: Random) -> bytes:
    """A JSON text with values changed; now and then with bytes changed."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return change_text(data, rng)
    return change_text(data, rng) if rng.random() < 0.1 else dumps(change_tree(tree, rng))


_BITS = (
    "[" * 3000,
    "9" * 5000,
    "{",
    "}",
    '"',
    ",",
    ":",
    "=",
    "\\u0000",
    "\\ud800",
    "NaN",
    "-Infinity",
    "1e999",
    "'",
    "#",
)


def change_text(data: bytes, rng: Random, words: tuple[str, ...] = _BITS) -> bytes:
    """A text with words put in, or its bytes damaged."""
    if rng.random() < 0.3:
        return damage(data, rng)
    changed = data
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        word = rng.choice(words).encode("utf-8", "surrogatepass")
        changed = changed[:at] + word + changed[at + rng.choice((0, 0, len(word), 3)) :]
    return changed


def with_words(*words: str) -> Mutator:
    """A mutator of text in which `words` mean something."""
    return lambda data, rng: change_text(data, rng, words)


def toml(tree: Any) -> str:
    """A TOML document of `tree`; tables stand in line, so that any order will do."""
    return "".join(f"{_key(key)} = {_toml(value)}\n" for key, value in tree.items())


def _key(key: str) -> str:
    return json.dumps(key.encode("utf-8", "replace").decode())


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return "{" + ", ".join(f"{_key(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(_toml(inner) for inner in value) + "]"
        case str():
            return _key(value)
        case None:
            return "2026-11-23T09:00:00Z"
    return repr(value)


def change_toml(data: bytes, rng: Random) -> bytes:
    """A TOML text with values changed; now and then with bytes changed."""
    if rng.random() < 0.1:
        return change_text(data, rng)
    try:
        tree = change_tree(tomllib.loads(data.decode()), rng)
        return toml(tree).encode() if isinstance(tree, dict) else b"a = " + _toml(tree).encode()
    except (ValueError, RecursionError):
        return change_text(data, rng)
