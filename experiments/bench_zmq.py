"""How many antennas `twinbeam run` sustains over ZeroMQ: a radio and the daemon on the same cores, nothing else told.

The radio (`iq_sender`) sends blocks of a millisecond at the pace of 30.72 MS/s an antenna over ipc; the daemon tracks
the cell, estimates the PUSCH of every slot and decides by it. Sustained is a number of antennas with which nothing was
lost on either side, nothing shed, and no slot left out once the cell was found.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ingest_signal import Ring, make_ring
from ingest.errors import TwinbeamError

RATE_HZ, PRBS = 30.72e6, 51
ROOT = Path(__file__).resolve().parent.parent
_LADDER = (2, 4, 6, 8, 12)
_OVERLOAD_ANTENNAS = 16
_MAX_LATE_S = 0.25
_MISSING_SLOTS_S = 8.0
"""How long the search for the cell may take from the first sample on; slots before it are nobody's."""
_PATIENCE_S = 120.0

_CONFIG = """
[source]
uri = "zmq+{address}?bind=1&socket=pull"

[emit]
bind = ""

[http]
enabled = false

[receiver]
prbs = {prbs}
carrier_hz = {carrier_hz}

[[receiver.references]]
name = "pusch"
kind = "pusch"
additional_positions = {signal.additional_positions}
n_id = [{signal.n_id[0]}, {signal.n_id[1]}]
"""


def run_zmq(*, quick: bool, seed: int) -> dict[str, Any]:
    """The largest number of antennas sustained, as complex64 and as 16-bit integers, and one that is too many.

    antennas_sustained, seconds, lost (messages and samples, of that run), gbytes_per_s: of complex64. sc16: the same of
    16-bit integers. runs: all of them. overload: antennas, lost, shed_samples and the share of slots still estimated.
    """
    seconds = 5.0 if quick else 60.0
    runs: list[dict[str, Any]] = []
    found: dict[str, Any] = {}
    for sample_format in ("cf32", "sc16"):
        best: dict[str, Any] | None = None
        for antennas in _LADDER:
            run = _run(antennas, sample_format, seconds, seed)
            runs.append(run)
            if not run["sustained"]:
                break
            best = run
        summary = {"antennas_sustained": best["antennas"] if best else 0, "seconds": seconds}
        if best is not None:
            summary |= {"lost": best["lost"] + best["lost_samples"], "gbytes_per_s": best["gbytes_per_s"]}
        found |= summary if sample_format == "cf32" else {"sc16": summary}
    found["overload"] = _run(_OVERLOAD_ANTENNAS, "cf32", 5.0 if quick else 20.0, seed)
    return found | {"runs": runs}


def _run(antennas: int, sample_format: str, seconds: float, seed: int) -> dict[str, Any]:
    """One stream to one daemon."""
    ring = make_ring(RATE_HZ, PRBS, antennas, seed)
    with tempfile.TemporaryDirectory(prefix="twinbeam-") as folder:
        path, address, config = Path(folder) / "ring.npy", f"ipc://{folder}/iq", Path(folder) / "config.toml"
        np.save(path, ring.samples)
        config.write_text(
            _CONFIG.format(address=address, prbs=PRBS, carrier_hz=ring.carrier.carrier_hz, signal=ring.signal)
        )
        daemon = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, str(ROOT / "twinbeam.py"), "run", str(config), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        log: list[str] = []
        try:
            _await_ready(daemon, log)
            sent = _send(path, address, ring, seconds, sample_format)
            # What waits in queues is at most a tenth of a second; a daemon that hangs is not let off.
            threading.Event().wait(1.0)
            daemon.send_signal(signal.SIGINT)
            out, _ = daemon.communicate(timeout=_PATIENCE_S)
        finally:
            daemon.kill()
            daemon.wait()
    return _judged(json.loads(out.splitlines()[-1]), sent, log, antennas, sample_format, seconds)


def _await_ready(daemon: subprocess.Popen[str], log: list[str]) -> None:
    """Wait until the daemon says that it is ready; its log is read to its end in a thread, so that it never blocks."""
    ready = threading.Event()

    def read() -> None:
        assert daemon.stderr is not None
        for line in daemon.stderr:
            log.append(line)
            if "ready" in line:
                ready.set()
        ready.set()

    threading.Thread(target=read, daemon=True).start()
    if not ready.wait(_PATIENCE_S) or daemon.poll() is not None:
        raise TwinbeamError(f"the daemon did not start: {''.join(log[-3:])}")


def _send(path: Path, address: str, ring: Ring, seconds: float, sample_format: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "experiments.iq_sender", str(path), address]
    command += ["--rate-hz", str(ring.rate_hz), "--center-hz", str(ring.center_hz)]
    command += ["--seconds", str(seconds), "--sample-format", sample_format]
    # Our own interpreter and module.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise TwinbeamError(f"the sender failed: {done.stderr.strip().splitlines()[-1:]}")
    sent: dict[str, Any] = json.loads(done.stdout)
    return sent


def _judged(
    told: dict[str, Any], sent: dict[str, Any], log: list[str], antennas: int, sample_format: str, seconds: float
) -> dict[str, Any]:
    """What one run comes to. slots: of the PUSCH that were estimated."""
    heard = told.get("references", {}).get("bench", {}).get("users", {}).get("pusch.0", {})
    row = {
        "antennas": antennas,
        "sample_format": sample_format,
        "seconds": seconds,
        "gbytes_per_s": round(sent["gbytes"] / sent["took_s"], 3),
        "unsent": sent["unsent"],
        "late_s": round(sent["late_s"], 3),
        "lost": told.get("lost", 0),
        "lost_samples": told.get("lost_samples", 0),
        "shed_samples": told.get("shed_samples", 0),
        "slots": heard.get("slots", 0),
        "snr_lmmse_db": heard.get("snr_lmmse_db"),
        "blocks": told["blocks"],
        "missed": told["missed"],
        "latency_ms": told["latency_ms"],
        "said_so": sum("cannot keep up" in line for line in log),
    }
    expected = (seconds - min(_MISSING_SLOTS_S, seconds / 2)) / 0.5e-3
    losses = row["unsent"] + row["lost"] + row["lost_samples"] + row["shed_samples"]
    row["sustained"] = losses == 0 and row["slots"] >= expected and row["late_s"] <= _MAX_LATE_S
    return row
