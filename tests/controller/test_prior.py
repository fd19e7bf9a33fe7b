"""The prior is the twin's channel where there is a twin, and an honest ignorance where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controller.prior import TwinPrior, ZeroPrior
from sim.bundle import SiteBundle
from sim.channels import SiteChannels
from tests.sim.hand_made import free_space_bundle

pytestmark = pytest.mark.kernel

RELATIVE_ERROR = 0.5


def twin(bundle: SiteBundle) -> TwinPrior:
    return TwinPrior(SiteChannels(bundle), RELATIVE_ERROR)


def quartile_powers(bundle: SiteBundle) -> tuple[float, float]:
    """Lower quartile over the grid of the mean power of direct and of cascade entries, places without paths aside."""
    cascades = [SiteChannels(bundle).cascade(place) for place in bundle.positions_m]
    direct = [np.mean(np.abs(cascade[0]) ** 2) for cascade in cascades]
    over_ris = [np.mean(np.abs(cascade[1:]) ** 2) for cascade in cascades]
    found = [[float(power) for power in powers if power > 0] for powers in (direct, over_ris)]
    return tuple(float(np.quantile(powers, 0.25)) if powers else 0.0 for powers in found)  # type: ignore[return-value]


def test_without_a_twin_nothing_is_expected() -> None:
    prior = ZeroPrior(rows=3, antennas=2, entry_power=6.0)
    for position in (None, (1.0, 2.0, 3.0)):
        mean = prior.mean("ue0", position)
        assert mean.shape == (3, 2)
        assert not mean.any()
    np.testing.assert_array_equal(prior.error_variances(mean, 1e-3), np.full((3, 2), 2.0))
    assert prior.error_variances(mean, 60.0).min() == 20.0  # as unsure as the measurement at least


def test_an_effective_channel_is_as_strong_as_the_first_one_seen(rng: np.random.Generator) -> None:
    """Under any RIS state of unit modulus the rows' variances add up to the power of an entry."""
    prior = ZeroPrior(rows=5, antennas=2, entry_power=0.8)
    variances = prior.error_variances(prior.mean("ue0", None), 1e-9)
    pattern = np.append(1.0, np.exp(2j * np.pi * rng.random(4)))
    np.testing.assert_allclose(np.abs(pattern) ** 2 @ variances, 0.8)


def test_a_twin_expects_its_own_channel() -> None:
    bundle = free_space_bundle()
    prior, channels = twin(bundle), SiteChannels(bundle)
    assert (prior.rows, prior.antennas) == (5, 6)
    place = (11.3, -5.2, 1.5)
    np.testing.assert_array_equal(prior.mean("ue0", place), channels.cascade(place))
    unknown = prior.mean("ue0", None)
    assert unknown.shape == (5, 6)
    assert not unknown.any()


def test_errors_are_a_share_of_the_channel() -> None:
    bundle = free_space_bundle()
    prior, (direct, over_ris) = twin(bundle), quartile_powers(bundle)
    strong = prior.mean("ue0", (11.0, -5.0, 1.5)) * 100.0
    found = prior.error_variances(strong, 1e-30)
    np.testing.assert_allclose(found[0], RELATIVE_ERROR * np.mean(np.abs(strong[0]) ** 2))
    np.testing.assert_allclose(found[1:], RELATIVE_ERROR * np.mean(np.abs(strong[1:]) ** 2))
    # Where the twin sees nothing, what is typical of the site may still be there.
    blind = prior.error_variances(np.zeros_like(strong), 1e-30)
    np.testing.assert_allclose(blind[0], RELATIVE_ERROR * direct)
    np.testing.assert_allclose(blind[1:], RELATIVE_ERROR * over_ris)


@pytest.mark.parametrize("facing", [True, False])
@pytest.mark.parametrize("ris", [True, False])
def test_no_error_is_ever_ruled_out(ris: bool, facing: bool) -> None:
    """Variances stay positive where no path leads: else nothing could ever be learnt there."""
    prior = twin(free_space_bundle(ris=ris, facing=facing))
    assert prior.rows == (5 if ris else 1)
    variances = prior.error_variances(prior.mean("ue0", None), 1e-12)
    assert variances.shape == (prior.rows, 6)
    assert variances.min() > 0


def test_a_twin_without_any_path_is_ignorant() -> None:
    bundle = free_space_bundle()
    silent = replace(
        bundle,
        bs_user=replace(bundle.bs_user, gain=0 * bundle.bs_user.gain),
        ris_user=replace(bundle.ris_user, gain=0 * bundle.ris_user.gain),
    )
    variances = twin(silent).error_variances(np.zeros((5, 6), np.complex128), 1e-12)
    assert variances.min() > 0
