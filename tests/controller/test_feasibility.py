"""Nothing infeasible is emitted: too much power, a state off the circle, anything that is no number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from controller.beamforming.feasibility import infeasibility
from tests.random_channels import complex_normal, unit_phases


@given(st.floats(1e-6, 1e3), st.floats(0.5, 2.0), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_power_is_what_the_entries_add_up_to(power: float, share: float, seed: int) -> None:
    assume(abs(share - (1 + 1e-6)) > 1e-9)
    rng = np.random.default_rng(seed)
    precoder = complex_normal(rng, 4, 2)
    precoder *= np.sqrt(share * power / sum(abs(entry) ** 2 for entry in precoder.ravel()))
    found = infeasibility(precoder, unit_phases(rng, 3), power)
    assert (found is None) == (share <= 1 + 1e-6)
    if found is not None:
        assert found.startswith("power")


def test_single_precision_of_a_filled_budget_is_feasible(rng: np.random.Generator) -> None:
    precoder = complex_normal(rng, 16, 4)
    precoder *= (1 - 1e-6) * np.sqrt(2.0) / np.linalg.norm(precoder)
    theta = unit_phases(rng, 256)
    assert infeasibility(precoder.astype(np.complex64), theta.astype(np.complex64), 2.0) is None


@pytest.mark.parametrize("poison", [np.nan, np.inf, complex(0, np.nan), complex(-np.inf, 0)])
@pytest.mark.parametrize("where", ["precoder", "theta"])
def test_what_is_no_number_is_refused(poison: complex, where: str, rng: np.random.Generator) -> None:
    precoder, theta = 0.1 * complex_normal(rng, 3, 2), unit_phases(rng, 4)
    (precoder if where == "precoder" else theta).flat[1] = poison
    assert infeasibility(precoder, theta, 10.0) == "not finite"


@pytest.mark.parametrize(
    ("modulus", "fits"), [(1.0, True), (1 + 5e-6, True), (1 + 1e-4, False), (0.99, False), (0.0, False)]
)
def test_states_are_on_the_unit_circle(modulus: float, fits: bool, rng: np.random.Generator) -> None:
    theta = unit_phases(rng, 4)
    theta[2] *= modulus
    found = infeasibility(np.zeros((3, 1), np.complex128), theta, 1.0)
    assert found == (None if fits else "RIS state off the unit circle")


def test_silence_and_no_ris_are_feasible() -> None:
    assert infeasibility(np.zeros((4, 0), np.complex64), np.zeros(0, np.complex64), 0.0) is None
    assert infeasibility(np.full((1, 1), 1e-3), np.zeros(0), 0.0) is not None


def test_a_panel_is_told_states_that_it_has() -> None:
    states = np.array([0.57, -0.02 + 0.55j])
    precoder = np.zeros((2, 1), np.complex128)
    assert infeasibility(precoder, states[[0, 1, 1]].astype(np.complex64), 1.0, states) is None
    assert "does not have" in str(infeasibility(precoder, np.array([0.57, 1.0]), 1.0, states))
    assert infeasibility(precoder, np.array([1.0, 1j]), 1.0, states[:0]) is None
