"""Traces as the journal keeps them: what the tracer found becomes a message, and every run works from the message.

A message has single precision where the tracer has no more, as site bundles do; a live run uses the rounded numbers
too, so that its replay has the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ingest.messages import TwinFrame
from sim.paths import COLUMNS, PathTable
from sim.tracker import Trace

SOURCE = "tracer"
_MOST_DB = 300.0
_HOPS = {"bs": "bs_user", "ris": "ris_user"}
_TYPES = {spec.name: spec.dtypes[0] for spec in TwinFrame.ARRAYS}


def frame_of(
    trace: Trace, errors_db: Mapping[str, float], *, epoch: int, seq: int, came_ns: int, trace_s: float
) -> TwinFrame:
    """The message of a trace that came at `came_ns`. epoch: which life of the tracer made it.

    errors_db: of users that were predicted; minus infinity, of a prediction that was right, is kept as -300 dB.
    """
    told = (errors_db.get(user) for user in trace.users)
    arrays: dict[str, Any] = {"positions_m": trace.positions_m}
    for hop, name in _HOPS.items():
        table: PathTable = getattr(trace, name)
        arrays[f"{hop}_paths"] = np.diff(table.offsets)
        arrays |= {f"{hop}_{column}": getattr(table, column) for column in COLUMNS[1:]}
    return TwinFrame(
        source=SOURCE,
        epoch=epoch,
        seq=seq,
        t_ns=came_ns,
        asked_ns=trace.t_ns,
        users=trace.users,
        trace_s=trace_s,
        errors_db=tuple(
            None if error is None or math.isnan(error) else min(max(error, -_MOST_DB), _MOST_DB) for error in told
        ),
        **{name: np.ascontiguousarray(array, _TYPES[name]) for name, array in arrays.items()},
    )


def trace_of(frame: TwinFrame) -> Trace:
    """The trace in a message, in the types that kernels take."""
    tables = {name: _table_of(frame, hop) for hop, name in _HOPS.items()}
    return Trace(frame.asked_ns, frame.users, np.array(frame.positions_m, np.float64), **tables)


def _table_of(frame: TwinFrame, hop: str) -> PathTable:
    def column(name: str, dtype: Any) -> Any:
        return np.array(getattr(frame, f"{hop}_{name}"), dtype)

    return PathTable(
        offsets=np.concatenate([[0], np.cumsum(column("paths", np.int64))]),
        gain=column("gain", np.complex128),
        length_m=column("length_m", np.float64),
        departure=column("departure", np.float64),
        arrival=column("arrival", np.float64),
        kind=column("kind", np.uint8),
        reach_m=column("reach_m", np.float64),
        mirror=column("mirror", np.float64),
    )
