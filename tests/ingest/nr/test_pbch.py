"""The PBCH's content comes through, whatever it says, and never from another cell, index or number of SSBs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.nr import pbch
from ingest.nr.band import WidebandSpectrum
from ingest.nr.cell_search import find_pss
from ingest.nr.ssb import SsbMeasurement, measure_ssb
from tests.ingest.nr.broadcast import Broadcast, crc24c, pbch_symbols, scrambled_payload
from tests.ingest.nr.signals import Complex, Ssb, capture, slow_pbch_dmrs, ssb_grid

RATE_HZ, RASTER_HZ = 7.68e6, 3512.64e6

SAID = st.builds(
    Broadcast,
    sfn=st.integers(0, 1023),
    half_frame=st.integers(0, 1),
    common_30_or_120=st.booleans(),
    k_ssb=st.integers(0, 31),
    position_3=st.booleans(),
    pdcch_config_sib1=st.integers(0, 255),
    not_barred=st.booleans(),
    reselection_not_allowed=st.booleans(),
    l_max=st.sampled_from([4, 8, 64]),
    ssb_index=st.integers(0, 63),
)


def soft(said: Broadcast, pci: int, index: int) -> np.ndarray:
    symbols = np.array(pbch_symbols(said, pci, index))
    return np.stack([symbols.real, symbols.imag], axis=1).ravel()


@given(said=SAID, pci=st.integers(0, 1007))
@settings(max_examples=30, deadline=None)
@pytest.mark.kernel
def test_every_field(said: Broadcast, pci: int) -> None:
    index = said.ssb_index % said.l_max
    said = replace(said, ssb_index=index)
    mib = pbch.decode(soft(said, pci, index), pci, index, said.l_max)
    assert mib is not None
    assert (mib.sfn, mib.half_frame) == (said.sfn, said.half_frame)
    wide = said.l_max == 64
    assert mib.scs_common_hz == (120e3 if wide else 30e3) / (1 if said.common_30_or_120 else 2)
    assert mib.k_ssb == (said.k_ssb % 16 if wide else said.k_ssb)
    assert mib.dmrs_type_a_position == (3 if said.position_3 else 2)
    assert mib.pdcch_config_sib1 == said.pdcch_config_sib1
    assert mib.cell_barred is not said.not_barred
    assert mib.intra_freq_reselection is not said.reselection_not_allowed
    assert mib.ssb_index_high == (index // 8 if wide else None)
    a = scrambled_payload(said, pci)
    assert mib.message.tolist() == a + crc24c(a)


@given(said=SAID, pci=st.integers(0, 1007))
@settings(max_examples=20, deadline=None)
def test_encoded_again_it_is_what_was_sent(said: Broadcast, pci: int) -> None:
    index = said.ssb_index % said.l_max
    a = scrambled_payload(said, pci)
    message = np.array(a + crc24c(a), np.uint8)
    np.testing.assert_allclose(pbch.elements(message, pci, index, said.l_max), pbch_symbols(said, pci, index))


@pytest.mark.kernel
def test_a_wrong_hypothesis_fails_the_crc() -> None:
    said = Broadcast(sfn=700, k_ssb=11)
    bits = soft(said, 77, 5)
    assert pbch.decode(bits, 77, 5, 8) is not None
    for pci, index, l_max in [(78, 5, 8), (1007, 5, 8), (77, 4, 8), (77, 1, 8), (77, 5, 4)]:
        assert pbch.decode(bits, pci, index, l_max) is None, (pci, index, l_max)
    # L_max = 64 scrambles the block alike but the payload otherwise: the CRC is right, and only the band can tell.
    assert pbch.decode(bits, 77, 13, 64) is not None


@pytest.mark.parametrize("shift", range(4))
def test_places_of_the_data(shift: int) -> None:
    """Table 7.4.3.1-1, frequency first: what neither DMRS nor SSS occupy."""
    grid = ssb_grid(shift, 0, Broadcast())
    symbols, places = pbch.data_places(shift)
    np.testing.assert_allclose(grid[symbols, places], pbch_symbols(Broadcast(), shift, 0))
    grid = grid.copy()
    grid[symbols, places] = 0
    assert np.count_nonzero(grid[1:]) == 127 + len(slow_pbch_dmrs(shift, 0))


def heard(sent: Ssb, snr_db: float | None, rng: np.random.Generator) -> SsbMeasurement | None:
    seen = capture([sent], rate_hz=RATE_HZ, center_hz=RASTER_HZ, samples=3000, snr_db=snr_db, rng=rng)
    band = WidebandSpectrum(seen, RATE_HZ, RASTER_HZ, sent.scs_hz).band(RASTER_HZ)
    found = [measure_ssb(band, one, RASTER_HZ) for one in find_pss(band, expected_false=1.0)]
    return next((one for one in found if one is not None), None)


def random_block(rng: np.random.Generator, antennas: int = 1) -> Ssb:
    said = Broadcast(sfn=int(rng.integers(1024)), half_frame=int(rng.integers(2)), k_ssb=int(rng.integers(32)))
    return Ssb(
        pci=int(rng.integers(1008)),
        start_s=rng.uniform(200, 1500) / RATE_HZ,
        raster_hz=RASTER_HZ,
        index_bar=int(rng.integers(8)),
        cfo_hz=rng.uniform(-1.2, 1.2) * 30e3,
        taps=((0.0, 0.9), (rng.uniform(1, 6) / RATE_HZ, 0.43j)),
        gain=tuple(np.exp(2j * np.pi * rng.random(antennas))),
        said=said,
    )


@pytest.mark.kernel
@pytest.mark.parametrize(("antennas", "snr_db", "least"), [(1, -5.0, 17), (1, 3.0, 20), (4, -9.0, 16)])
def test_a_block_is_proved_in_noise(antennas: int, snr_db: float, least: int, rng: np.random.Generator) -> None:
    """Over the air with noise, offsets and an echo; several antennas hear more than one."""
    proved = 0
    for _ in range(20):
        sent = random_block(rng, antennas)
        found = heard(sent, snr_db, rng)
        if found is not None and found.mib is not None:
            assert sent.said is not None
            assert (found.pci, found.ssb_index) == (sent.pci, sent.index_bar)
            assert (found.mib.sfn, found.half_frame, found.mib.k_ssb) == (
                sent.said.sfn,
                sent.said.half_frame,
                sent.said.k_ssb,
            )
            proved += 1
    assert proved >= least


@pytest.mark.kernel
def test_a_boosted_pss_changes_nothing(rng: np.random.Generator) -> None:
    """38.213 clause 4.1 lets the PSS be 3 dB stronger than the rest."""

    class Boosted(Ssb):
        def _grid(self) -> Complex:
            grid = super()._grid().copy()
            grid[0] *= np.sqrt(2)
            return grid

    for _ in range(5):
        sent = random_block(rng)
        boosted = Boosted(**{name: getattr(sent, name) for name in sent.__dataclass_fields__})
        found = heard(boosted, 0.0, rng)
        assert found is not None
        assert found.pci == sent.pci
        assert found.mib is not None


@pytest.mark.kernel
def test_a_pbch_that_is_not_one_leaves_the_block_unproved(rng: np.random.Generator) -> None:
    sent = replace(random_block(rng), said=None)
    found = heard(sent, 15.0, rng)
    assert found is not None
    assert (found.pci, found.ssb_index, found.mib, found.half_frame) == (sent.pci, sent.index_bar, None, None)
