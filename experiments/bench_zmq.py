"""How many antennas `twinbeam run` sustains over ZeroMQ: a radio and the daemon on the same cores, nothing else told.

The radio (`iq_sender`) sends blocks of four milliseconds at the pace of 30.72 MS/s an antenna over ipc; the daemon
tracks the cell, estimates the PUSCH of every slot and decides by it every 20 ms, as in the demo. Counted from where the
cell had time to be found, a number of antennas is sustained with which nothing is lost on either side, nothing shed,
and no slot left out.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import sleep
from typing import Any
from urllib.request import urlopen

import numpy as np

from experiments.ingest_signal import Ring, make_ring
from experiments.iq_sender import MEASURING
from ingest.errors import TwinbeamError

RATE_HZ, PRBS = 30.72e6, 51
ROOT = Path(__file__).resolve().parent.parent
_LADDER = (2, 3, 4, 6, 8)
_OVERLOAD_ANTENNAS = 16
_MAX_LATE_S = 0.25
_WARM_UP_S = 15.0
_DRAIN_S = 1.0
"""What waits in queues is at most a tenth of a second; a daemon that hangs is not let off."""
_UNCERTAIN_S = 0.2
"""Between the sender's word and the daemon's counters."""
_REFUSED_SHARE = 1e-3
FRAMES_PER_S = 2000 + 50
"""One for each slot's PUSCH, one for each SSB."""
COUNTERS = {
    "lost": "twinbeam_inputs_lost_total",
    "lost_samples": "twinbeam_iq_samples_lost_total",
    "shed_samples": "twinbeam_iq_samples_shed_total",
    "frames": 'twinbeam_inputs_total{topic="channel"}',
}
_PATIENCE_S = 120.0

_CONFIG = """
[source]
uri = "zmq+{address}?bind=1&socket=pull"

[emit]
bind = ""

[block]
period_s = 20e-3
deadline_s = 15e-3
lead_s = 17e-3

[http]
port = {port}

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
    16-bit integers. runs: all of them, as `_judged` tells. overload: one with more than can be received.
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
        port = _free_port()
        np.save(path, ring.samples)
        config.write_text(
            _CONFIG.format(
                address=address, prbs=PRBS, carrier_hz=ring.carrier.carrier_hz, signal=ring.signal, port=port
            )
        )
        command = [sys.executable, str(ROOT / "twinbeam.py"), "run", str(config), "--json"]
        # Our own interpreter and module.
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as daemon:  # noqa: S603
            log = _Log(daemon)
            try:
                log.await_ready()
                before, sent = _send(path, address, ring, seconds, sample_format, port)
                sleep(_DRAIN_S)
                after = _counters(port)
                daemon.send_signal(signal.SIGINT)
                assert daemon.stdout is not None
                out = daemon.stdout.read()
            finally:
                daemon.kill()
                log.end()
    counted = {name: after[name] - before[name] for name in COUNTERS}
    return _judged(json.loads(out.splitlines()[-1]), counted, sent, log.lines, antennas, sample_format, seconds)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _counters(port: int) -> dict[str, int]:
    """What the daemon has counted so far, by the keys of `COUNTERS`."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_PATIENCE_S) as answer:
            lines = answer.read().decode().splitlines()
    except OSError as error:
        raise TwinbeamError(f"the daemon does not answer any more: {error}") from None
    values = dict(line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: round(float(values.get(metric, 0.0))) for name, metric in COUNTERS.items()}


class _Log:
    """The lines of a daemon's log, read in a thread to its end, so that it never blocks."""

    def __init__(self, daemon: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._daemon = daemon
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._daemon.stderr is not None
        for line in self._daemon.stderr:
            self.lines.append(line)
            if "ready" in line:
                self._ready.set()
        self._ready.set()

    def await_ready(self) -> None:
        """Wait until the daemon says that it is ready."""
        if not self._ready.wait(_PATIENCE_S) or self._daemon.poll() is not None:
            raise TwinbeamError(f"the daemon did not start: {''.join(self.lines[-3:])}")

    def end(self) -> None:
        """Wait until the daemon has ended, and all is read."""
        self._daemon.wait()
        self._thread.join(_PATIENCE_S)


def _send(
    path: Path, address: str, ring: Ring, seconds: float, sample_format: str, port: int
) -> tuple[dict[str, int], dict[str, Any]]:
    """The daemon's counters when measuring began, and what the sender did from then on."""
    command = [sys.executable, "-m", "experiments.iq_sender", str(path), address]
    command += ["--rate-hz", str(ring.rate_hz), "--center-hz", str(ring.center_hz)]
    command += ["--seconds", str(seconds), "--warm-up-s", str(_WARM_UP_S), "--sample-format", sample_format]
    # Our own interpreter and module.
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as sender:  # noqa: S603
        assert sender.stdout is not None
        if sender.stdout.readline().strip() != MEASURING:
            raise TwinbeamError("the sender failed")
        before = _counters(port)
        sent: dict[str, Any] = json.loads(sender.stdout.read())
    return before, sent


def _judged(
    told: dict[str, Any],
    counted: dict[str, int],
    sent: dict[str, Any],
    log: list[str],
    antennas: int,
    sample_format: str,
    seconds: float,
) -> dict[str, Any]:
    """What one run comes to: `COUNTERS` while it was measured, what the daemon told of all of it."""
    heard = told.get("references", {}).get("bench", {}).get("users", {}).get("pusch.0", {})
    row = {
        "antennas": antennas,
        "sample_format": sample_format,
        "seconds": seconds,
        "gbytes_per_s": round(sent["gbytes"] / sent["took_s"], 3),
        "unsent": sent["unsent"],
        "late_s": round(sent["late_s"], 3),
        **counted,
        "snr_lmmse_db": heard.get("snr_lmmse_db"),
        "blocks": told["blocks"],
        "missed": told["missed"],
        "latency_ms": told["latency_ms"],
        "said_so": sum("cannot keep up" in line for line in log),
    }
    losses = row["unsent"] + row["lost"] + row["lost_samples"] + row["shed_samples"]
    expected = (seconds - _UNCERTAIN_S) * FRAMES_PER_S * (1 - _REFUSED_SHARE)
    row["sustained"] = losses == 0 and row["frames"] >= expected and row["late_s"] <= _MAX_LATE_S
    return row
