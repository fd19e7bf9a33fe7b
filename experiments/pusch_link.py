"""An uplink between Sionna's PUSCH transmitter and our receiver: what `bench_estimation` feeds estimators with.

Transmitter, channels and least squares are Sionna's, so they are an independent oracle. Nothing of the receiver is
written twice: received grids are handed over as the spectra that `SlotReceiver`'s demodulator would have made of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.genie import Genie
from ingest.nr.dmrs import PuschDmrs
from ingest.nr.estimation import PortEstimator
from ingest.nr.ofdm import SYMBOLS_PER_SLOT, Carrier, OfdmDemodulator
from ingest.nr.pilots import PilotGroup
from ingest.nr.slot_estimate import Refusal, SlotEstimate
from ingest.nr.slot_plan import SlotPlan, picked, plan_slot
from ingest.nr.slot_receiver import delay_window
from ingest.nr.streams import estimate_streams, stream_estimator

Complex = npt.NDArray[np.complexfloating]
Real = npt.NDArray[np.float64]

CARRIER_HZ = 3.5e9
SCS_HZ = 30e3
LIGHT_MPS = 299792458.0
GROUPS_WITHOUT_DATA, N_ID = 2, 77
CHUNK = 20
"""Slots whose grids are in memory at a time."""

_SPECULAR_RAD = np.pi / 4
"""Angle between the direction of motion and the specular path of a TDL."""

_GRIDS = 4
"""Slots of data that Sionna encodes; they are sent again and again, for no estimator looks at data."""


@dataclass(frozen=True)
class Case:
    """One link. channel: TDL-A to -E or CDL-A to -E (38.901 clause 7.7). ports: DMRS ports of the layers.

    users: transmitters that share the layers evenly; Sionna's send 1, 2 or 4 layers each. drops: how often the run's
    slots begin anew with other phases; within a drop they follow each other in time.
    """

    channel: str
    delay_spread_ns: float
    antennas: int = 1
    ports: tuple[int, ...] = (0,)
    prbs: int = 52
    config_type: int = 1
    length: int = 1
    additional_positions: int = 0
    speed_mps: float = 10.0
    drops: int = 1
    users: int = 1
    slot: int = 3

    @property
    def dmrs(self) -> str:
        """DMRS in short."""
        ports = ",".join(map(str, self.ports))
        return f"type {self.config_type}, {self.length}x{self.additional_positions + 1}, ports {ports}"

    @property
    def layers(self) -> int:
        return len(self.ports)

    @property
    def doppler_hz(self) -> float:
        """Maximum Doppler shift."""
        return self.speed_mps * CARRIER_HZ / LIGHT_MPS


@dataclass(frozen=True)
class Profile:
    """What a genie knows of a channel: delays_s [P], powers [P] of a path without and with a specular part."""

    delays_s: Real
    powers: Real
    specular: Real
    specular_hz: float


@dataclass(frozen=True)
class Chunk:
    """Slots as they arrive but for noise. first: number of the first slot.

    grid [B, A, U, S]: on the DMRS symbols. middle [B, A, L, S]: what layers' channels are in the middle of these
    symbols; at_pilots [B, A, L, U, S]: on each of them.
    """

    first: int
    grid: Complex
    middle: Complex
    at_pilots: Complex


class Link:
    """Sionna's side of a case: transmitter and channel; and ours: carrier, plan, estimators."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.carrier = Carrier(SCS_HZ, case.prbs, CARRIER_HZ)
        self.dmrs = self.configured()
        rate_hz = SCS_HZ * (1 << (self.carrier.subcarriers - 1).bit_length())
        self.demodulator = OfdmDemodulator(self.carrier, rate_hz, CARRIER_HZ)
        self.plan = self.planned(self.dmrs, case.slot)
        self.symbols = self.plan.symbols
        self.tones_hz = self.carrier.tones_hz(np.arange(self.carrier.subcarriers))
        self.groups = self.dmrs.pilots(self.carrier, case.slot)
        self.boost = float(np.mean(np.abs(self.groups[0].values) ** 2))

    def configured(self, n_id: int = N_ID) -> PuschDmrs:
        """Our configuration of the DMRS."""
        case = self.case
        return PuschDmrs(
            ports=case.ports,
            config_type=case.config_type,
            length=case.length,
            additional_positions=case.additional_positions,
            n_id=(n_id, n_id),
            groups_without_data=GROUPS_WITHOUT_DATA,
        )

    def planned(self, dmrs: PuschDmrs, slot: int) -> SlotPlan:
        return plan_slot(self.demodulator, [("pusch", dmrs)], slot, 0)

    @property
    def middle_symbol(self) -> tuple[int, float]:
        """The DMRS symbols' middle: a symbol, and by what share of one it lies behind it."""
        whole, share = divmod(float(np.mean(self.symbols)), 1.0)
        return int(whole), share

    def pusch_config(self, slot: int | None = None, user: int = 0) -> Any:
        """Sionna's `PUSCHConfig` of one of the case's users."""
        from sionna.phy.nr import CarrierConfig, PUSCHConfig, PUSCHDMRSConfig

        case = self.case
        layers = case.layers // case.users
        dmrs = PUSCHDMRSConfig(
            config_type=case.config_type,
            length=case.length,
            additional_position=case.additional_positions,
            dmrs_port_set=list(case.ports[user * layers : (user + 1) * layers]),
            n_id=(N_ID, N_ID),
            num_cdm_groups_without_data=GROUPS_WITHOUT_DATA,
        )
        slot = case.slot if slot is None else slot
        carrier = CarrierConfig(subcarrier_spacing=SCS_HZ / 1e3, n_size_grid=case.prbs, slot_number=slot)
        return PUSCHConfig(
            carrier_config=carrier,
            pusch_dmrs_config=dmrs,
            num_layers=layers,
            num_antenna_ports=layers,
            symbol_allocation=[0, SYMBOLS_PER_SLOT],
        )

    @cached_property
    def transmitter(self) -> Any:
        from sionna.phy.nr import PUSCHTransmitter

        return PUSCHTransmitter([self.pusch_config(user=user) for user in range(self.case.users)])

    @cached_property
    def sent(self) -> Complex:
        """Grids that Sionna sends. Shape [slots, layers, 14, S]."""
        grids, _ = self.transmitter(_GRIDS)
        return np.asarray(grids.flatten(1, 2).numpy())

    @cached_property
    def model(self) -> Any:
        """Sionna's channel model, uplink."""
        from sionna.phy.channel.tr38901 import CDL, TDL, AntennaArray

        case = self.case
        kind, letter = case.channel.split("-")
        if kind == "TDL":
            return TDL(
                letter,
                case.delay_spread_ns * 1e-9,
                CARRIER_HZ,
                min_speed=case.speed_mps,
                num_rx_ant=case.antennas,
                num_tx_ant=case.layers,
                los_angle_of_arrival=_SPECULAR_RAD,
            )
        array = partial(
            AntennaArray,
            num_rows=1,
            polarization="single",
            polarization_type="V",
            antenna_pattern="omni",
            carrier_frequency=CARRIER_HZ,
        )
        return CDL(
            letter,
            case.delay_spread_ns * 1e-9,
            CARRIER_HZ,
            *(array(num_cols=count) for count in (case.layers, case.antennas)),
            direction="uplink",
            min_speed=case.speed_mps,
            max_speed=case.speed_mps,
        )

    @cached_property
    def profile(self) -> Profile:
        """The channel's true power-delay profile."""
        model = self.model
        if self.case.channel.startswith("TDL"):
            powers = model.mean_powers.numpy().astype(float)
            specular = np.zeros(len(powers))
            if model.los:
                specular[0] = float(model.mean_power_los)
            line_hz = self.case.doppler_hz * np.cos(_SPECULAR_RAD)
            return Profile(model.delays.numpy().astype(float), powers - specular, specular, line_hz)
        _, tau = model(1, 1, 1e3)
        powers = model._powers.numpy().astype(float)
        return Profile(tau.numpy().reshape(-1).astype(float), powers, np.zeros(len(powers)), 0.0)

    def chunks(self, slots: int) -> Iterator[Chunk]:
        """The run's slots, one chunk after the other."""
        import torch
        from sionna.phy.channel import cir_to_ofdm_channel

        case = self.case
        frequencies = torch.tensor(self.tones_hz)
        per_drop = -(-slots // case.drops)
        sent = self.sent[:, :, list(self.symbols)]
        below, weight = self.middle_symbol
        for drop in range(case.drops):
            begin = drop * per_drop
            count = min(per_drop, slots - begin)
            a, tau = self.model(1, count * SYMBOLS_PER_SLOT, SYMBOLS_PER_SLOT / self.carrier.slot_s)
            for first in range(0, count, CHUNK):
                part = a.reshape(*a.shape[:-1], count, SYMBOLS_PER_SLOT)[..., first : first + CHUNK, :]
                picked = torch.stack(
                    [part[..., symbol] for symbol in self.symbols]
                    + [(1 - weight) * part[..., below] + weight * part[..., below + 1]],
                    dim=-1,
                )
                h = cir_to_ofdm_channel(frequencies, picked.flatten(-2), tau)[0, 0, :, 0].numpy()  # [A, L, times, S]
                h = h.reshape(*h.shape[:2], -1, len(self.symbols) + 1, h.shape[-1]).transpose(2, 0, 1, 3, 4)
                which = (begin + first + np.arange(len(h))) % len(sent)
                grid = np.einsum("balus,blus->baus", h[:, :, :, :-1], sent[which])
                yield Chunk(begin + first, grid, h[:, :, :, -1], h[:, :, :, :-1])

    def estimators(self) -> list[PortEstimator]:
        """One per stream of the plan, as `SlotReceiver` makes them, but for all subcarriers."""
        window = delay_window(self.carrier)
        return [stream_estimator(stream, self.tones_hz, window) for stream in self.plan.streams]

    @cached_property
    def _elements(self) -> Complex:
        """What turns bins into resource elements. Shape [U, S]."""
        subcarriers = np.arange(self.carrier.subcarriers)
        return self.demodulator.coefficients(self.case.slot, self.plan.symbols, subcarriers)

    def spectrum(self, grid: Complex) -> npt.NDArray[np.complex64]:
        """What the demodulator's transforms would hold for received elements grid [A, U, S]."""
        plan = self.plan
        bins = np.zeros((*grid.shape[:2], self.demodulator.fft), np.complex64)
        bins[..., self.demodulator.bins(np.arange(self.carrier.subcarriers))] = grid / self._elements
        if plan.residues is None:
            return bins
        return np.concatenate([bins[..., residue::2] for residue in plan.residues], axis=-1)

    def receive(
        self, estimators: list[PortEstimator], grids: Complex, times_s: Real, plan: SlotPlan | None = None
    ) -> list[list[SlotEstimate | Refusal]]:
        """What `SlotReceiver` makes of slots with received elements grids [B, A, U, S]: estimates per stream.

        plan: what is looked for, where that is another thing than what was sent.
        """
        spectra = [self.spectrum(grid) for grid in grids]
        found: list[list[SlotEstimate | Refusal]] = []
        pairs = zip((plan or self.plan).streams, estimators, strict=True)
        for _, family in groupby(pairs, key=lambda pair: pair[0].elements):
            streams, followers = zip(*family, strict=True)
            rows = [np.stack([picked(each, stream) for each in spectra]) for stream in streams]
            found += estimate_streams(followers, streams, rows, times_s)
        return found

    def genies(self, noise_power: float, outputs_hz: Real) -> list[Genie]:
        """One per group of ports that share pilots. noise_power: per received element over port 0's pilot."""
        profile, case = self.profile, self.case
        starts_s = self.carrier.symbol_starts_s(case.slot % self.carrier.slots_per_subframe)
        # What paths of a CDL turn by depends on their angles; cases of it have pilots in one place only.
        doppler_hz = case.doppler_hz if case.channel.startswith("TDL") else 0.0
        return [
            Genie(
                self.carrier.tones_hz(group.subcarriers),
                group.values / group.values[0],
                starts_s[list(group.symbols)],
                delays_s=profile.delays_s,
                powers=profile.powers,
                specular=profile.specular,
                doppler_hz=doppler_hz,
                specular_hz=profile.specular_hz,
                outputs_hz=outputs_hz,
                noise_power=noise_power,
            )
            for group in self.groups
        ]

    def over_pilots(self, group: PilotGroup, grid: Complex) -> Complex:
        """Received elements of a group over what its port 0 sent. grid [A, U, S] to [A, L, pilots]."""
        rows = [self.symbols.index(symbol) for symbol in group.symbols]
        return np.asarray(grid[:, rows][:, :, group.subcarriers] / group.values[0])

    def layers_of(self, ports: tuple[int, ...]) -> list[int]:
        """Which layers ports carry."""
        return [self.case.ports.index(port) for port in ports]

    def of(self, ports: tuple[int, ...], chunk: Chunk, index: int) -> Complex:
        """True channels of a slot's ports in the middle. Shape [G, A, S]."""
        return np.asarray(chunk.middle[index][:, self.layers_of(ports)].transpose(1, 0, 2))

    def at_pilots(self, chunk: Chunk, port: int) -> Complex:
        """True channels of all layers on the pilots of the group that `port` is in. Shape [B, A, layers, L, pilots]."""
        group = next(group for group in self.groups if port in group.ports)
        rows = [self.symbols.index(symbol) for symbol in group.symbols]
        return np.asarray(chunk.at_pilots[:, :, :, rows][..., group.subcarriers])
