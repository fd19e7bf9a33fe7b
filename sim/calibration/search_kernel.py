"""The kernel that looks for points from which energy comes that the twin does not know of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.kernel import kernel

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

_NEAREST_M = 0.1


@kernel
def explained(
    responses: Complex,
    before_m: Real,
    candidates_m: Real,
    receivers_m: Real,
    profiles: Complex,
    step_m: float,
    patches: npt.NDArray[np.int64],
    weights: Real,
    wave: float,
    out: Real,
) -> None:
    """Weighted energy [P] that a scatterer at each of candidates_m [P, 3] takes out of links, up to a common factor.

    Each patch of links has a gain of its own, the best for it. responses [P, N]: phases of the array's antennas towards
    a candidate, before_m [P] its way. profiles [K, D, N]: for the links at receivers_m [K, 3], of weights [K], the sum
    over tones of the residual, turned back by each tone's offset over ways of 0, step_m, ... [m]; wave [rad/m] is the
    carrier's. patches [K]: a number for each, links of one patch in a row.
    """
    candidates, antennas = responses.shape
    links, bins = profiles.shape[0], profiles.shape[1]
    for p in range(candidates):
        total, norm = 0.0, 0.0
        together = 0.0 + 0.0j
        for k in range(links):
            if k > 0 and patches[k] != patches[k - 1]:
                total += (together.real**2 + together.imag**2) / norm
                together, norm = 0.0 + 0.0j, 0.0
            square = 0.0
            for axis in range(3):
                square += (candidates_m[p, axis] - receivers_m[k, axis]) ** 2
            after_m = max(np.sqrt(square), _NEAREST_M)
            way_m = before_m[p] + after_m
            norm += weights[k] / after_m**2
            index = int(way_m / step_m + 0.5)
            if index < bins:
                inner = 0.0 + 0.0j
                for n in range(antennas):
                    inner += np.conj(responses[p, n]) * profiles[k, index, n]
                # A bin is many wavelengths wide: the carrier's phase goes with the way itself.
                together += weights[k] / after_m * inner * np.exp(1j * wave * way_m)
        if links:
            total += (together.real**2 + together.imag**2) / norm
        out[p] = total
