"""Specifications of small sets in the street canyon, as files and as plans without a tracer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sim.datasets.spec import Plan, load_plan
from tests.conftest import ROOT
from tests.sim.canyon import CANYON
from tests.sim.test_build import written

SPEC: dict[str, Any] = {
    "name": "street",
    "site": "site.toml",
    "samples": 400,
    "seed": 5,
    "shard_samples": 64,
    "trace": {"samples": 1000, "max_depth": 1},
    "positions": {"draw": "uniform"},
    "cfr": {"tones": 4, "bandwidth_hz": 20e6},
}


def block_of_the_page(language: str) -> str:
    """The first code block of a language on the page about data sets."""
    found = re.search(rf"```{language}\n(.*?)```", (ROOT / "docs" / "datasets.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def spec_file(folder: Path, site_tables: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A specification beside its site, with top-level keys replaced; None leaves one out."""
    written(folder, {**CANYON, **(site_tables or {})})
    tables = {key: value for key, value in {**SPEC, **changes}.items() if value is not None}
    site_file = (folder / "site.toml").read_text()
    path = written(folder, tables).rename(folder / "street.toml")
    (folder / "site.toml").write_text(site_file)
    return path


def plan(folder: Path, site_tables: dict[str, Any] | None = None, **changes: Any) -> Plan:
    """The plan of such a file."""
    return load_plan(spec_file(folder, site_tables, **changes))
