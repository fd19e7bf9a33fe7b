"""Rician K factors, told from channels that were drawn with known ones."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.nr.envelope import LEAST_K_DB, Envelope

SLOTS, ANTENNAS, TONES = 1500, 2, 12
GAINS = np.array([1.0, 2.0])[:, None]


def followed(k_db: list[float], error: float = 0.0) -> Envelope:
    """An envelope that followed independent fadings of ports with these K factors, estimated with this error power."""
    rng = np.random.default_rng(1)
    shape = (SLOTS, ANTENNAS, TONES)
    ports = []
    for k in 10 ** (np.array(k_db) / 10):
        fading = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)
        steady = np.exp(2j * np.pi * rng.uniform(size=(SLOTS, 1, 1)))
        gains = GAINS if error == 0.0 else 1.0
        ports.append(gains * (np.sqrt(k / (k + 1)) * steady + np.sqrt(1 / (k + 1) - error) * fading))
    powers = np.abs(np.stack(ports)) ** 2  # [G, n, A, O]
    envelope = Envelope(len(k_db))
    moments = (np.ascontiguousarray((powers**order).mean(axis=3).swapaxes(0, 1)) for order in (1, 2))
    envelope.follow(*moments, np.full((SLOTS, len(k_db)), error))
    return envelope


@pytest.mark.kernel
def test_k_factors_are_told_port_by_port() -> None:
    told = followed([3.0, 9.0, 15.0]).k_factor_db(100.0, 5e-4)
    assert told is not None
    np.testing.assert_allclose(told, [3.0, 9.0, 15.0], atol=0.4)


def test_what_the_estimate_lacks_is_no_line_of_sight() -> None:
    told = followed([6.0], error=0.1).k_factor_db(100.0, 5e-4)
    assert told is not None
    assert told[0] == pytest.approx(6.0, abs=0.5)


def test_no_line_of_sight_is_told_as_very_little() -> None:
    told = followed([-60.0]).k_factor_db(100.0, 5e-4)
    assert told is not None
    assert LEAST_K_DB <= told[0] < -4.0


def test_nothing_is_told_of_a_channel_that_hardly_moved() -> None:
    envelope = followed([9.0])
    assert envelope.k_factor_db(None, 5e-4) is None
    assert envelope.k_factor_db(10.0, 5e-4) is None
