"""What the configurations of all reference signals share: their checks, and how their pilots are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ingest.nr.ofdm import PRB_SUBCARRIERS, Carrier
from ingest.nr.pilots import PilotGroup

SLOTS_KEPT = 640
"""Slots of pilots kept per kind of signal: a frame at 30 kHz for 32 users, tens of megabytes at 100 MHz."""


def require(fact: bool, otherwise: str) -> None:
    """Raise ValueError(otherwise) unless `fact`."""
    if not fact:
        raise ValueError(otherwise)


def require_one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    require(value in allowed, f"{name} is {value!r}, must be one of {', '.join(map(repr, allowed))}")


def require_range(name: str, value: int, low: int, high: int) -> None:
    require(low <= value <= high, f"{name} is {value}, must be {low} to {high}")


def require_slot(carrier: Carrier, slot_in_frame: int) -> None:
    require_range("slot_in_frame", slot_in_frame, 0, carrier.slots_per_frame - 1)


def require_inside(carrier: Carrier, subcarriers: npt.NDArray[np.int64]) -> None:
    """Subcarriers, ascending, must lie in the carrier's grid."""
    if len(subcarriers) and (subcarriers[0] < 0 or subcarriers[-1] >= carrier.subcarriers):
        low, high = subcarriers[0] // PRB_SUBCARRIERS, subcarriers[-1] // PRB_SUBCARRIERS
        raise ValueError(f"the signal lies on PRBs {low} to {high}, the carrier has 0 to {carrier.prbs - 1}")


def kept_group(
    ports: Sequence[int],
    symbols: Sequence[int],
    subcarriers: npt.NDArray[np.int64],
    values: npt.NDArray[np.complexfloating],
) -> PilotGroup:
    """A `PilotGroup` that callers share, hence with read-only arrays."""
    places = np.array(subcarriers, np.int64)
    sent = np.array(values, np.complex64)
    places.flags.writeable = False
    sent.flags.writeable = False
    return PilotGroup(tuple(ports), tuple(symbols), places, sent)
