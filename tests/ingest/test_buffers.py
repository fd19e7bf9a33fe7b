"""Memory is used again only when nobody can see it any more."""

from __future__ import annotations

import numpy as np

from ingest.buffers import Buffers


def test_what_is_held_is_never_handed_out_again() -> None:
    buffers = Buffers()
    first = buffers.take(2, 100)
    view = buffers.take(2, 100)[:, 10:20]
    address = view.base.ctypes.data if view.base is not None else 0
    others = [buffers.take(2, 100) for _ in range(10)]
    assert len({array.ctypes.data for array in (first, *others)} | {address}) == 12
    first[:], view[:] = 1.0, 2.0
    for array in others:
        array[:] = 3.0
    assert np.all(first == 1.0)
    assert np.all(view == 2.0)


def test_what_nobody_holds_comes_again() -> None:
    buffers = Buffers()
    addresses = {buffers.take(1, 1000).ctypes.data for _ in range(20)}
    assert len(addresses) == 1


def test_other_shapes_are_other_arrays() -> None:
    buffers = Buffers()
    addresses = set()
    for samples in (10, 20, 10, 20):
        array = buffers.take(1, samples)
        assert array.shape == (1, samples)
        addresses.add(array.ctypes.data)
        del array
    assert len(addresses) == 2
