"""Tests of `sim.datasets`."""
