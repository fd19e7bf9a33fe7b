"""Transmit designs: linear precoders, RIS alignment, feasibility. A design takes beliefs and gives precoder and phases.

`PrecoderDesign` is the door for every precoder, robust ones included; `PRECODERS` is what the configuration names.
"""

from __future__ import annotations

from controller.beamforming.linear import PRECODERS, DesignProblem, PrecoderDesign

__all__ = ["PRECODERS", "DesignProblem", "PrecoderDesign"]
