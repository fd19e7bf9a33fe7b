"""Reference signals as one thing: which resource elements carry what, for ports that share them.

DMRS, SRS and CSI-RS all come down to `PilotGroup`s, and one estimator (`estimation`) serves them all. Ports of one
group are told apart by the covers, cyclic shifts or codes in `values`; ports of different groups by their resource
elements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class PilotGroup:
    """Resource elements of one slot that G antenna ports share.

    ports [G]: the ports' numbers as 38.211 counts them within the channel (0, 1, ...). symbols [L]: OFDM symbols of the
    slot, ascending. subcarriers [S]: of the carrier's grid, ascending, the same on each symbol. values [G, L, S]: what
    each port sends there, of unit magnitude but for power factors.
    """

    ports: tuple[int, ...]
    symbols: tuple[int, ...]
    subcarriers: npt.NDArray[np.int64]
    values: npt.NDArray[np.complex64]

    def __post_init__(self) -> None:
        shape = (len(self.ports), len(self.symbols), len(self.subcarriers))
        if self.values.shape != shape:
            raise ValueError(f"values of shape {self.values.shape}, the group has {shape}")
