"""The fake `uhd` module of our tests has nothing that the real one lacks, and the bridge runs beside the real one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.interop.conftest import SYSTEM_PYTHON
from tests.processes import PATIENCE_S

ROOT = Path(__file__).parents[2]
FAKE = ROOT / "tests" / "ingest" / "fake_uhd"

PUBLIC_NAMES = """
import enum, inspect, json, uhd
found = []
for module in (uhd.types, uhd.usrp):
    for name, thing in vars(module).items():
        if inspect.isclass(thing) and name[0] != "_":
            found += [name] + [name + "." + part for part in dir(thing) if part[0] != "_"]
made = {
    "RXMetadata": uhd.types.RXMetadata(),
    "StreamCMD": uhd.types.StreamCMD(uhd.types.StreamMode.start_cont),
    "StreamArgs": uhd.usrp.StreamArgs("sc16", "sc16"),
}
for name, thing in made.items():
    found += [name + "." + part for part in dir(thing) if part[0] != "_"]
spec = uhd.types.TimeSpec(1.25)
print(json.dumps({
    "names": sorted(set(found)),
    "time": [spec.get_full_secs(), spec.get_frac_secs(), spec.get_real_secs()],
    "later": uhd.types.TimeSpec(1, 0.5).get_real_secs(),
    "codes": {code: getattr(uhd.types.RXMetadataErrorCode, code).name
              for code in ("none", "timeout", "late", "broken_chain", "overflow", "alignment", "bad_packet")},
    "first error": uhd.types.RXMetadata().error_code.name,
}))
"""


def asked(path: str) -> dict[str, object]:
    """What the module `uhd` under PYTHONPATH `path` says of itself."""
    ended = subprocess.run(
        [SYSTEM_PYTHON, "-c", PUBLIC_NAMES],
        env={"PYTHONPATH": path, "FAKE_UHD": "{}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    found = json.loads(ended.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_the_fake_is_like_the_real_one() -> None:
    real, fake = asked(""), asked(str(FAKE))
    assert isinstance(fake["names"], list)
    assert isinstance(real["names"], list)
    assert not set(fake["names"]) - set(real["names"])
    assert {name: value for name, value in fake.items() if name != "names"} == {
        name: value for name, value in real.items() if name != "names"
    }


def test_the_bridge_tells_that_there_is_no_radio() -> None:
    command = [SYSTEM_PYTHON, str(ROOT / "deploy" / "usrp_bridge.py"), "--rate-hz", "1e6", "--center-hz", "1e9"]
    ended = subprocess.run(
        [*command, "--args", "type=b200"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == 1
    assert "No devices found" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
