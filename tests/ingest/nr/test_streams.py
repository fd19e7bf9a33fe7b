"""Ports on covers over time whose channels move while a cover lasts, over paths that are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ingest.nr.dmrs import PuschDmrs
from ingest.nr.estimation import PortEstimator
from ingest.nr.ofdm import Carrier, OfdmDemodulator
from ingest.nr.slot_estimate import Refusal, SlotEstimate
from ingest.nr.slot_plan import Stream, picked, plan_slot
from ingest.nr.slot_receiver import delay_window
from ingest.nr.streams import estimate_streams, stream_estimator

CARRIER = Carrier(30e3, 24, 3.5e9)
DEMODULATOR = OfdmDemodulator(CARRIER, 512 * 30e3, 3.5e9)
TONES_HZ = CARRIER.tones_hz(np.arange(CARRIER.subcarriers))
DELAYS_S = np.array([0.0, 0.11e-6, 0.43e-6])
GAINS = np.sqrt([0.6, 0.3, 0.1])
WAVES = 32
SLOTS = 150
DOPPLER_HZ = 200.0
NOISE = 1e-3

Complex = npt.NDArray[np.complex128]


class Users:
    """Two antennas' channels from each port, of waves from all around on every path."""

    def __init__(self, ports: tuple[int, ...], cfos_hz: tuple[float, ...], seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.ports = ports
        self.dmrs = PuschDmrs(ports=ports, length=2, additional_positions=1, n_id=(9, 9))
        self.plan = plan_slot(DEMODULATOR, [("ue", self.dmrs)], 3, 0)
        shape = (len(ports), 2, len(DELAYS_S), WAVES)
        self._shifts_hz = DOPPLER_HZ * np.cos(rng.uniform(0, 2 * np.pi, shape))
        self._shifts_hz += np.array(cfos_hz)[:, None, None, None]
        self._phases = np.exp(2j * np.pi * rng.uniform(size=shape)) / np.sqrt(WAVES)
        self._rng = rng

    def channel(self, time_s: float) -> Complex:
        """[G, A, S]."""
        waves = (self._phases * np.exp(2j * np.pi * self._shifts_hz * time_s)).sum(axis=3)
        return np.asarray((waves * GAINS) @ np.exp(-2j * np.pi * TONES_HZ * DELAYS_S[:, None]))

    def spectrum(self, slot_s: float, silent: tuple[int, ...] = ()) -> npt.NDArray[np.complex64]:
        """What the transforms of the planned symbols hold. Shape [A, U, bins]."""
        starts_s = CARRIER.symbol_starts_s(1)
        grid = np.zeros((2, len(self.plan.symbols), CARRIER.subcarriers), complex)
        for group in self.dmrs.pilots(CARRIER, 3):
            for row, symbol in enumerate(group.symbols):
                seen = self.channel(slot_s + starts_s[symbol])[:, :, group.subcarriers]
                for port, values in zip(group.ports, group.values[:, row], strict=True):
                    if port not in silent:
                        grid[:, row][:, group.subcarriers] += values * seen[self.ports.index(port)]
        noise = self._rng.standard_normal(grid.shape) + 1j * self._rng.standard_normal(grid.shape)
        grid += np.sqrt(NOISE / 2) * noise
        subcarriers = np.arange(CARRIER.subcarriers)
        bins = np.zeros((*grid.shape[:2], DEMODULATOR.fft), np.complex64)
        bins[..., DEMODULATOR.bins(subcarriers)] = grid / DEMODULATOR.coefficients(3, self.plan.symbols, subcarriers)
        residues = self.plan.residues
        return bins if residues is None else np.concatenate([bins[..., each::2] for each in residues], axis=-1)

    def received(self, silent: tuple[int, ...] = ()) -> tuple[list[npt.NDArray[np.complex64]], npt.NDArray[np.float64]]:
        """Elements of each stream over all slots, and when the slots were."""
        slots_s = 1e-3 * np.arange(SLOTS)
        spectra = [self.spectrum(slot_s, silent) for slot_s in slots_s]
        rows = [np.stack([picked(each, stream) for each in spectra]) for stream in self.plan.streams]
        return rows, slots_s

    def estimators(self) -> list[PortEstimator]:
        return [stream_estimator(stream, TONES_HZ, delay_window(CARRIER)) for stream in self.plan.streams]

    def error(self, stream: Stream, told: list[SlotEstimate | Refusal], slots_s: npt.NDArray[np.float64]) -> float:
        """Mean squared error of the last third, as a share of the noise."""
        errors = []
        for slot_s, one in list(zip(slots_s, told, strict=True))[-SLOTS // 3 :]:
            assert isinstance(one, SlotEstimate)
            truth = self.channel(slot_s + float(stream.times_s.mean()))
            errors += [
                np.mean(np.abs(found - truth[self.ports.index(port)]) ** 2)
                for port, found in zip(stream.ports, one.cfr, strict=True)
            ]
        return float(np.mean(errors)) / NOISE


@pytest.mark.kernel
@pytest.mark.parametrize(
    "cfos_hz", [(0.0, 0.0, 0.0, 0.0), (600.0, 600.0, 600.0, 600.0), (-300.0, -300.0, 400.0, 400.0)]
)
def test_ports_on_a_time_cover_do_not_disturb_each_other(cfos_hz: tuple[float, ...]) -> None:
    users = Users((0, 1, 4, 5), cfos_hz)
    received, slots_s = users.received()
    assert [stream.span for stream in users.plan.streams] == [2, 2]
    together = estimate_streams(users.estimators(), users.plan.streams, received, slots_s)
    alone = [estimator.estimate(rows, slots_s) for estimator, rows in zip(users.estimators(), received, strict=True)]
    for number, stream in enumerate(users.plan.streams):
        error = users.error(stream, together[number], slots_s)
        assert error < 0.25  # averaging symbols alone leaves a half of the noise
        assert error < 0.8 * users.error(stream, alone[number], slots_s)
        for one, raw in zip(together[number], received[number], strict=True):
            assert isinstance(one, SlotEstimate)
            np.testing.assert_array_equal(one.ls, raw)


def test_slots_may_be_dealt_out_in_any_way() -> None:
    users = Users((0, 4), (50.0, 50.0))
    received, slots_s = users.received()
    whole = estimate_streams(users.estimators(), users.plan.streams, received, slots_s)
    estimators = users.estimators()
    for begin, end in ((0, 1), (1, 40), (40, SLOTS)):
        part = estimate_streams(
            estimators, users.plan.streams, [rows[begin:end] for rows in received], slots_s[begin:end]
        )
        for told, expected in zip(part, whole, strict=True):
            for one, other in zip(told, expected[begin:end], strict=True):
                assert isinstance(one, SlotEstimate)
                assert isinstance(other, SlotEstimate)
                np.testing.assert_array_equal(one.cfr, other.cfr)


def test_a_user_who_falls_silent_is_refused_and_leaves_the_other_alone() -> None:
    users = Users((0, 4), (300.0, 300.0))
    received, slots_s = users.received()
    estimators = users.estimators()
    estimate_streams(estimators, users.plan.streams, received, slots_s)
    received, _ = users.received(silent=(4,))
    told = dict(
        zip(
            [stream.ports for stream in users.plan.streams],
            estimate_streams(estimators, users.plan.streams, received, slots_s),
            strict=True,
        )
    )
    assert all(isinstance(one, Refusal) for one in told[4,])
    stream = next(stream for stream in users.plan.streams if stream.ports == (0,))
    assert users.error(stream, told[0,], slots_s) < 0.25
