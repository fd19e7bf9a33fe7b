"""Frames are numbered by the coherence blocks that they were measured in."""

from __future__ import annotations

import msgspec
import numpy as np

from controller.coherence import CoherenceBlocks
from tests.random_channels import frame


def test_blocks_begin_with_the_first_frame_and_never_go_back() -> None:
    blocks = CoherenceBlocks(10e-3)
    times_ms = [500, 500.5, 509.9, 510, 519, 300, 545]
    frames = [msgspec.structs.replace(frame(np.ones((1, 2)), block=77), t_ns=round(time * 1e6)) for time in times_ms]
    assert [blocks.numbered(one).block for one in frames] == [0, 0, 0, 1, 1, 1, 4]
