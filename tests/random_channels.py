"""Random channels, covariances and messages for tests."""

from __future__ import annotations

import numpy as np

from controller.covariance import Complex, LowRankDiagonal
from ingest.messages import ChannelFrame, StepBudget, no_array


def complex_normal(rng: np.random.Generator, *shape: int) -> Complex:
    """Circular Gaussian numbers of unit variance."""
    return np.asarray((rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2))


def random_covariance(
    rng: np.random.Generator, rows: int, antennas: int, rank: int, scale: float = 1.0
) -> LowRankDiagonal:
    """A low rank + diagonal covariance of channels [rows, antennas]."""
    factor = complex_normal(rng, rank, rows, antennas)
    return LowRankDiagonal(rng.uniform(0.1, 1.0, (rows, antennas)), factor, scale)


def dense(covariance: LowRankDiagonal) -> Complex:
    """The whole matrix over the R N entries, row by row."""
    flat = covariance.factor.reshape(covariance.rank, covariance.diagonal.size)
    return covariance.scale * (np.diag(covariance.diagonal.ravel()) + flat.T @ flat.conj())


def unit_phases(rng: np.random.Generator, count: int) -> Complex:
    return np.exp(2j * np.pi * rng.random(count))


def frame(
    cfr: Complex,
    *,
    user: str = "ue0",
    block: int = 0,
    t_ns: int = 0,
    noise_power: float = 1e-3,
    pattern: Complex | None = None,
    cascade: bool = False,
    beams: Complex | None = None,
    position_m: tuple[float, float, float] | None = None,
    velocity_m_s: tuple[float, float, float] | None = None,
    source: str = "test",
    seq: int | None = None,
) -> ChannelFrame:
    """A channel frame at the carrier from cfr [P, B]; pattern [M] is the RIS state it was seen under."""
    elements = 0 if pattern is None else pattern.size
    patterns = np.ones((cfr.shape[0], elements), np.complex64)
    if pattern is not None:
        patterns[:] = pattern
    return ChannelFrame(
        source=source,
        epoch=0,
        seq=block if seq is None else seq,
        t_ns=t_ns,
        user=user,
        block=block,
        domain="cascade" if cascade else "effective",
        noise_power=noise_power,
        snr_db=0.0,
        position_m=position_m,
        velocity_m_s=velocity_m_s,
        cfr=cfr[:, :, None].astype(np.complex64),
        tones_hz=np.zeros(1),
        ris_patterns=patterns,
        beams=no_array(0, cfr.shape[1]) if beams is None else beams.astype(np.complex64),
        cir=no_array(cfr.shape[1], 0),
    )


def budget(block: int, *, t_ns: int | None = None, rung: str = "linear", lead_s: float = 0.0) -> StepBudget:
    return StepBudget(
        source="test",
        epoch=0,
        seq=block,
        t_ns=block * 10**7 if t_ns is None else t_ns,
        block=block,
        rung=rung,  # type: ignore[arg-type]
        iterations=3,
        lead_s=lead_s,
    )
