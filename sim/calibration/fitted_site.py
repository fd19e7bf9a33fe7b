"""The site that a fit has found: the site file's with other materials and another pose of its array."""

from __future__ import annotations

from sim.calibration.site_model import Physical, turned_angles
from sim.site import Site
from sim.trace_settings import Material


def fitted_site(site: Site, found: Physical) -> Site:
    """`site` in a fitted state."""
    place_m = tuple(a + b for a, b in zip(site.bs.position_m, found.pose.place_m, strict=True))
    bs = site.bs.model_copy(update={**turned_angles(site, found.pose), "position_m": place_m})
    constants = {
        name: Material(relative_permittivity=permittivity, conductivity_s_m=conductivity)
        for name, (permittivity, conductivity) in found.materials.items()
    }
    return site.model_copy(update={"bs": bs, "materials": {**site.materials, **constants}})
