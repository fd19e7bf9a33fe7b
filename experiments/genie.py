"""The estimator that knows everything but the channel: LMMSE with the true power-delay profile, motion and noise power.

No estimator that treats antennas one by one can be better on average where paths fade as complex Gaussians, so it is
what a learnt prior is measured against.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import j0

Complex = npt.NDArray[np.complexfloating]
Real = npt.NDArray[np.float64]


class Genie:
    """Joint LMMSE of G ports that share pilots.

    tones_hz [S], covers [G, L, S]: pilots on L symbols, relative to port 0; times_s [L]: of the symbols. delays_s,
    powers, specular [P]: paths, the power that fades by Clarke's spectrum of doppler_hz and the one that turns by
    specular_hz. outputs_hz [O]. noise_power: per received element over port 0's pilot.
    """

    def __init__(
        self,
        tones_hz: Real,
        covers: Complex,
        times_s: Real,
        *,
        delays_s: Real,
        powers: Real,
        specular: Real,
        doppler_hz: float,
        specular_hz: float,
        outputs_hz: Real,
        noise_power: float,
    ) -> None:
        ports, symbols, _ = covers.shape
        times_s = times_s - times_s.mean()
        fourier = np.exp(-2j * np.pi * tones_hz[:, None] * delays_s)
        # steering[t]: paths of all ports to the received elements of symbol t.
        self._steering = np.stack(
            [
                np.concatenate([cover[:, None] * fourier for cover in covers[:, symbol]], axis=1)
                for symbol in range(symbols)
            ]
        )
        apart_s = times_s[:, None] - times_s
        within = _correlation(powers, specular, apart_s, doppler_hz, specular_hz)
        to_middle = _correlation(powers, specular, -times_s[None, :], doppler_hz, specular_hz)[:, 0]
        paths = ports * len(delays_s)
        prior = np.zeros((symbols, paths, symbols, paths), complex)
        cross = np.zeros((paths, symbols, paths), complex)
        every = np.arange(paths)
        prior[:, every, :, every] = np.tile(within, (ports, 1, 1))
        cross[every, :, every] = np.tile(to_middle, (ports, 1))
        gram = np.zeros_like(prior)
        for symbol, steering in enumerate(self._steering):
            gram[symbol, :, symbol] = steering.conj().T @ steering
        size = symbols * paths
        system = gram.reshape(size, size) @ prior.reshape(size, size) + noise_power * np.eye(size)
        # C_mid Phi^H (Phi C Phi^H + n I)^-1 = C_mid (Phi^H Phi C + n I)^-1 Phi^H
        weights = np.linalg.solve(system.T, cross.reshape(paths, size).T).T
        synthesis = np.exp(-2j * np.pi * outputs_hz[:, None] * delays_s)
        self._weights = np.einsum("op,gpx->gox", synthesis, weights.reshape(ports, -1, size))

    def estimate(self, received: Complex) -> Complex:
        """Channels [G, A, O] in the symbols' middle from received [A, L, S], elements over port 0's pilots."""
        seen = np.einsum("tsp,ats->atp", self._steering.conj(), received, optimize=True)
        return np.asarray(np.einsum("gox,ax->gao", self._weights, seen.reshape(len(seen), -1), optimize=True))


def _correlation(powers: Real, specular: Real, apart_s: Real, doppler_hz: float, specular_hz: float) -> Complex:
    """Covariance of each path between times that are apart_s [i, j] apart. Shape [P, i, j]."""
    fading = j0(2 * np.pi * doppler_hz * apart_s)
    turning = np.exp(2j * np.pi * specular_hz * apart_s)
    return np.asarray(powers[:, None, None] * fading + specular[:, None, None] * turning)
