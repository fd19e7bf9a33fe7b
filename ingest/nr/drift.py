"""Clocks and oscillators: a value that drifts, followed through noisy measurements."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DriftFilter:
    """A value and its rate of change, measured now and then in noise: a Kalman filter of two states.

    value_noise, rate_noise: variance that value and rate gain each second. variances: of the two at the start.
    """

    value: float
    value_noise: float
    rate_noise: float
    variances: tuple[float, float]
    rate: float = 0.0

    def __post_init__(self) -> None:
        self._value_variance, self._rate_variance = self.variances
        self._covariance = 0.0

    def predict(self, elapsed_s: float) -> None:
        """Go on by `elapsed_s`."""
        self.value += self.rate * elapsed_s
        self._value_variance += elapsed_s * (2 * self._covariance + elapsed_s * self._rate_variance)
        self._value_variance += self.value_noise * elapsed_s
        self._covariance += elapsed_s * self._rate_variance
        self._rate_variance += self.rate_noise * elapsed_s

    def correct(self, measured: float, variance: float) -> None:
        """Take in a value measured with that variance."""
        total = self._value_variance + variance
        value_gain, rate_gain = self._value_variance / total, self._covariance / total
        error = measured - self.value
        self.value += value_gain * error
        self.rate += rate_gain * error
        self._rate_variance -= rate_gain * self._covariance
        self._covariance *= 1 - value_gain
        self._value_variance *= 1 - value_gain
