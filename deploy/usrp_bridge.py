#!/usr/bin/python3
"""Streams a USRP into twinbeam: samples by UHD in, `iq` messages by ZeroMQ out.

A process of its own under the system's Python, because Debian's python3-uhd is built for NumPy 1:

    apt-get install python3-uhd python3-zmq
    deploy/usrp_bridge.py --rate-hz 30.72e6 --center-hz 3500e6 --gain-db 30 --endpoint tcp://127.0.0.1:5557

and `[source] uri = "zmq+tcp://127.0.0.1:5557"` in twinbeam's configuration. What is sent stands in docs/wire.md;
nothing of twinbeam is imported here. The number of a sample is the radio's own time of it in samples since the start,
so that whatever the radio or the computer lost is a gap of exactly that many samples. SIGTERM and SIGINT end it in
order; the last line on stderr is a JSON object of what it did.
"""

import argparse
import json
import signal
import sys
import time
from collections import Counter

import numpy as np
import uhd
import zmq

SCHEMA = "twinbeam.IqBlock/1"
FORMATS = {"sc16": ("sc16", np.int32, "<i2"), "cf32": ("fc32", np.complex64, "<c8")}
"""By name on the command line: UHD's name of it, the dtype of one sample, and the dtype on the wire."""

FULL_SCALE = 32768.0
RECV_TIMEOUT_S = 0.25
START_DELAY_S = 0.2
SEND_HIGH_WATER_MARK = 64
DRAIN_CALLS = 1000


def tell(line):
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--args", default="", help="UHD device arguments, as addr=192.168.10.2")
    parser.add_argument("--rate-hz", type=float, required=True)
    parser.add_argument("--center-hz", type=float, required=True)
    parser.add_argument("--gain-db", type=float, default=30.0)
    parser.add_argument("--bandwidth-hz", type=float)
    parser.add_argument("--antenna", default="", help="RX port, as RX2")
    parser.add_argument("--subdev", default="", help="RX subdevice specification, as 'A:0 B:0'")
    parser.add_argument("--channels", default="0", help="coherent channels, as 0,1,2,3")
    parser.add_argument("--clock-source", default="", help="internal, external or gpsdo")
    parser.add_argument("--time-source", default="", help="internal, external or gpsdo")
    parser.add_argument("--format", choices=sorted(FORMATS), default="sc16", help="on the wire; sc16 is half the bytes")
    parser.add_argument("--block-ms", type=float, default=1.0, help="length of a message")
    parser.add_argument("--endpoint", default="tcp://127.0.0.1:5557")
    parser.add_argument("--connect", action="store_true", help="connect to the endpoint instead of binding it")
    parser.add_argument("--socket", choices=("pub", "push"), default="pub")
    parser.add_argument("--source", default="usrp", help="the sender's name in the messages")
    arguments = parser.parse_args(argv)
    try:
        arguments.channels = [int(channel) for channel in arguments.channels.split(",")]
    except ValueError:
        parser.error("--channels takes numbers, as 0,1")
    if not (arguments.rate_hz > 0 and arguments.center_hz >= 0 and 0.05 <= arguments.block_ms <= 1000):
        parser.error("--rate-hz, --center-hz and --block-ms (0.05 to 1000) must be positive")
    return arguments


class Publisher:
    """Sends blocks of samples. It never waits: what nobody takes is counted, and the receiver sees the gap."""

    def __init__(self, arguments, rate_hz, center_hz):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PUB if arguments.socket == "pub" else zmq.PUSH)
        self.socket.setsockopt(zmq.LINGER, 500)
        self.socket.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER_MARK)
        self.socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
        self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)
        if arguments.connect:
            self.socket.connect(arguments.endpoint)
        else:
            self.socket.bind(arguments.endpoint)
        _, _, self.dtype = FORMATS[arguments.format]
        self.messages = 0
        self.unsent = 0
        self.header = {
            "schema": SCHEMA,
            "source": arguments.source,
            "t_ns": 0,
            "rate_hz": rate_hz,
            "center_hz": center_hz,
        }
        if self.dtype == "<i2":
            self.header["full_scale"] = FULL_SCALE
        self.begin()

    def begin(self):
        """A new life of this sender: numbers count from 0 again."""
        self.header["epoch"] = time.time_ns()
        self.seq = 0

    def send(self, first_sample, samples):
        """samples [channels, count], one element a sample."""
        shape = list(samples.shape) + ([2] if self.dtype == "<i2" else [])
        array = {"name": "samples", "dtype": self.dtype, "shape": shape}
        header = dict(self.header, seq=self.seq, first_sample=first_sample, arrays=[array])
        self.seq += 1
        self.messages += 1
        try:
            self.socket.send_multipart(
                [b"iq", json.dumps(header).encode(), np.ascontiguousarray(samples)], zmq.NOBLOCK, copy=True
            )
        except zmq.Again:
            self.unsent += 1

    def close(self):
        self.socket.close()
        self.context.term()


class SampleCount:
    """Numbers samples by the radio's clock; where a packet bears no time, they follow those before."""

    def __init__(self, rate_hz):
        self.rate_hz = rate_hz
        self.lost = 0
        self.begin()

    def begin(self):
        """The next sample is number 0."""
        self.start = None
        self.expected = 0

    def first(self, metadata, count):
        """The number of the first of `count` samples that came with `metadata`; None where the clock has gone back."""
        number = self.expected
        if metadata.has_time_spec:
            now = metadata.time_spec
            if self.start is None:
                self.start = (now.get_full_secs(), now.get_frac_secs())
            seconds = now.get_full_secs() - self.start[0]
            number = round(seconds * self.rate_hz + (now.get_frac_secs() - self.start[1]) * self.rate_hz)
        if number < self.expected:
            return None
        self.lost += number - self.expected
        self.expected = number + count
        return number


class Bridge:
    """One streamer, kept for the whole run, received into one buffer: UHD leaks or crashes where they are made anew."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.errors = Counter()
        self.sent = 0
        self.stopping = False
        self.radio = uhd.usrp.MultiUSRP(arguments.args)
        self._tune()
        rate_hz = self.radio.get_rx_rate(arguments.channels[0])
        center_hz = self.radio.get_rx_freq(arguments.channels[0])
        cpu_format, dtype, _ = FORMATS[arguments.format]
        stream_args = uhd.usrp.StreamArgs(cpu_format, "sc16")
        stream_args.channels = arguments.channels
        self.streamer = self.radio.get_rx_stream(stream_args)
        count = max(round(rate_hz * arguments.block_ms * 1e-3), 1)
        # Whole and contiguous: python3-uhd receives into a copy of anything else, and the samples are gone.
        self.buffer = np.zeros((len(arguments.channels), count), dtype)
        self.count = SampleCount(rate_hz)
        self.publisher = Publisher(arguments, rate_hz, center_hz)

    def _tune(self):
        arguments, radio = self.arguments, self.radio
        if arguments.clock_source:
            radio.set_clock_source(arguments.clock_source)
        if arguments.time_source:
            radio.set_time_source(arguments.time_source)
        if arguments.subdev:
            radio.set_rx_subdev_spec(uhd.usrp.SubdevSpec(arguments.subdev))
        for channel in arguments.channels:
            radio.set_rx_rate(arguments.rate_hz, channel)
            radio.set_rx_freq(uhd.types.TuneRequest(arguments.center_hz), channel)
            radio.set_rx_gain(arguments.gain_db, channel)
            if arguments.bandwidth_hz:
                radio.set_rx_bandwidth(arguments.bandwidth_hz, channel)
            if arguments.antenna:
                radio.set_rx_antenna(arguments.antenna, channel)
        if arguments.time_source in ("", "internal"):
            radio.set_time_now(uhd.types.TimeSpec(0.0))
        else:
            radio.set_time_unknown_pps(uhd.types.TimeSpec(0.0))

    def start(self):
        """All channels begin at the same instant, a little from now."""
        command = uhd.types.StreamCMD(uhd.types.StreamMode.start_cont)
        command.stream_now = False
        begin_s = self.radio.get_time_now().get_real_secs() + START_DELAY_S
        command.time_spec = uhd.types.TimeSpec(begin_s)
        self.streamer.issue_stream_cmd(command)

    def run(self):
        """Receive and send until told to stop."""
        metadata = uhd.types.RXMetadata()
        none = uhd.types.RXMetadataErrorCode.none
        self.start()
        while not self.stopping:
            count = self.streamer.recv(self.buffer, metadata, RECV_TIMEOUT_S)
            if count:
                self._pass_on(metadata, count)
            if metadata.error_code != none:
                self._mend(metadata.error_code)

    def _pass_on(self, metadata, count):
        first_sample = self.count.first(metadata, count)
        if first_sample is None:
            self.errors["clock_step"] += 1
            self.publisher.begin()
            self.count.begin()
            first_sample = self.count.first(metadata, count)
        self.publisher.send(first_sample, self.buffer[:, :count])
        self.sent += count

    def _mend(self, code):
        """Errors are counted. After an overflow the stream goes on, and its next time tells the gap; where the stream
        has not begun or has ended, it is begun anew."""
        codes = uhd.types.RXMetadataErrorCode
        self.errors[code.name] += 1
        if self.errors[code.name] == 1:
            tell(f"usrp_bridge: {code.name}")
        if code in (codes.late, codes.broken_chain):
            self.start()

    def close(self):
        """Stop the stream and empty it: a radio that is left streaming answers the next program with old packets."""
        self.streamer.issue_stream_cmd(uhd.types.StreamCMD(uhd.types.StreamMode.stop_cont))
        metadata = uhd.types.RXMetadata()
        for _ in range(DRAIN_CALLS):
            if not self.streamer.recv(self.buffer, metadata, 0.1):
                break
        self.publisher.close()

    def summary(self):
        return {
            "rate_hz": self.count.rate_hz,
            "samples": self.sent,
            "lost": self.count.lost,
            "messages": self.publisher.messages,
            "unsent": self.publisher.unsent,
            "errors": dict(self.errors),
        }


def main(argv=None):
    arguments = parse_arguments(argv)
    try:
        bridge = Bridge(arguments)
    except (RuntimeError, zmq.ZMQError) as error:
        tell(f"usrp_bridge: {' '.join(str(error).split())}")
        return 1

    def stop(_number, _frame):
        bridge.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    tell("usrp_bridge: streaming")
    try:
        bridge.run()
    finally:
        bridge.close()
        tell(json.dumps(bridge.summary()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
