"""Fidelity knobs: how far a twin is from its world in geometry, materials, ray tracing and hardware (paper P5)."""
