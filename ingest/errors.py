"""What a person is told when something they gave us cannot be used: what, where, how to mend it."""

from __future__ import annotations


class TwinbeamError(Exception):
    """A failure told to the user in one line; `exit_code` is the process's exit code.

    what: what is wrong. where: the file, key, endpoint or offset. mend: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what, self.where, self.mend = (" ".join(part.split()) for part in (what, where, mend))
        where_part = f"{self.where}: " if self.where else ""
        mend_part = f" ({self.mend})" if self.mend else ""
        super().__init__(f"{where_part}{self.what}{mend_part}")


class UsageRefused(TwinbeamError):
    """A command or configuration that cannot be carried out as written."""

    exit_code = 2


class InputRefused(TwinbeamError):
    """A capture, log, stream, journal or model whose contents cannot be trusted."""

    exit_code = 3
