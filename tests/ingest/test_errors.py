"""What a user is told fits into one line and decides the exit code."""

from __future__ import annotations

import pytest

from ingest.errors import InputRefused, TwinbeamError, UsageRefused


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"what": "is empty"}, "is empty"),
        ({"what": "is empty", "where": "a.cf32"}, "a.cf32: is empty"),
        ({"what": "is empty", "where": "a.cf32", "mend": "fill it"}, "a.cf32: is empty (fill it)"),
        ({"what": "is empty", "mend": "fill it"}, "is empty (fill it)"),
        ({"what": "two\n  lines\r\n", "where": "a\tb", "mend": "\nmend\n"}, "a b: two lines (mend)"),
    ],
)
def test_one_line(arguments: dict[str, str], line: str) -> None:
    for kind in (TwinbeamError, UsageRefused, InputRefused):
        assert str(kind(**arguments)) == line


def test_exit_codes() -> None:
    assert (TwinbeamError.exit_code, UsageRefused.exit_code, InputRefused.exit_code) == (1, 2, 3)
    assert issubclass(UsageRefused, TwinbeamError)
    assert issubclass(InputRefused, TwinbeamError)
