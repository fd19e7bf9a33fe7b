"""UHD's MultiUSRP and its receive streamer, for a radio that follows a script."""

import json
import os
import time

import numpy as np

from .types import RXMetadataErrorCode, StreamMode, TimeSpec


class StreamArgs:
    def __init__(self, cpu_format, otw_format):
        self.cpu_format = cpu_format
        self.otw_format = otw_format
        self.args = ""
        self.channels = [0]


class SubdevSpec:
    def __init__(self, markup):
        self.markup = markup


class MultiUSRP:
    def __init__(self, args=""):
        if args == "type=none":
            raise RuntimeError("LookupError: KeyError: No devices found for ----->\nDevice Address:\n    type: none\n")
        self._script = json.loads(os.environ["FAKE_UHD"])
        self._freq = {}
        self._now = 12.5
        self._streamers = 0

    def set_rx_rate(self, rate, chan=0):
        self._rate = self._script.get("rate_hz", rate)

    def get_rx_rate(self, chan=0):
        return self._rate

    def set_rx_freq(self, tune_request, chan=0):
        self._freq[chan] = tune_request.target_freq

    def get_rx_freq(self, chan=0):
        return self._freq[chan]

    def set_rx_gain(self, gain, chan=0):
        assert isinstance(gain, float)

    def set_rx_bandwidth(self, bandwidth, chan=0):
        assert isinstance(bandwidth, float)

    def set_rx_antenna(self, ant, chan=0):
        assert isinstance(ant, str)

    def set_rx_subdev_spec(self, spec, mboard=0):
        assert isinstance(spec, SubdevSpec)

    def set_clock_source(self, source, mboard=0):
        assert source in ("internal", "external", "gpsdo")

    def set_time_source(self, source, mboard=0):
        assert source in ("internal", "external", "gpsdo")

    def set_time_now(self, time_spec, mboard=0):
        self._now = time_spec.get_real_secs()

    def set_time_unknown_pps(self, time_spec):
        self._now = time_spec.get_real_secs()

    def get_time_now(self, mboard=0):
        return TimeSpec(self._now)

    def get_rx_stream(self, args):
        self._streamers += 1
        if self._streamers > 1:
            raise RuntimeError("RuntimeError: a second streamer")
        return RXStreamer(self._script["events"], self._rate, args)


class RXStreamer:
    def __init__(self, events, rate_hz, args):
        self._events = list(events)
        self._rate = rate_hz
        self._channels = list(args.channels)
        self._dtype = {"sc16": np.dtype("<i2"), "fc32": np.dtype("<f4")}[args.cpu_format]
        self._running = False
        self._sample = 0
        self._began = TimeSpec(0.0)
        self._step_s = 0.0

    def get_num_channels(self):
        return len(self._channels)

    def get_max_num_samps(self):
        return 364

    def issue_stream_cmd(self, stream_cmd):
        self._running = stream_cmd._stream_mode == StreamMode.start_cont
        if self._running and self._sample == 0:
            assert not stream_cmd.stream_now, "channels that start at once start apart"
            self._began = stream_cmd.time_spec

    def recv(self, np_array, metadata, timeout=0.1):
        if not np_array.flags.c_contiguous or not np_array.flags.writeable:
            raise RuntimeError("RuntimeError: python3-uhd 4.3 receives into a copy of this array")
        if np_array.ndim != 2 or np_array.shape[0] < len(self._channels):
            raise RuntimeError("RuntimeError: Number of RX channels does not match the dimensions of the data array")
        assert np_array.dtype.itemsize == 2 * self._dtype.itemsize
        metadata.reset()
        if not self._running or not self._events:
            time.sleep(min(timeout, 0.02))
            return self._failed(metadata, "timeout")
        event = self._events[0]
        kind, value = next(iter(event.items()))
        if kind in ("samples", "untimed"):
            return self._received(np_array, metadata, kind == "samples")
        self._events.pop(0)
        if kind == "clock_s":
            self._step_s += value
            return self.recv(np_array, metadata, timeout)
        if kind == "overflow":
            self._sample += value
        self._running = kind != "late"
        return self._failed(metadata, value if kind == "error" else kind)

    def _failed(self, metadata, name):
        metadata.error_code = RXMetadataErrorCode[name]
        return 0

    def _received(self, np_array, metadata, timed):
        kind = "samples" if timed else "untimed"
        count = min(self._events[0][kind], np_array.shape[1])
        self._events[0][kind] -= count
        if not self._events[0][kind]:
            self._events.pop(0)
        numbers = np.arange(self._sample, self._sample + count) % 30000
        for row, channel in enumerate(self._channels):
            pairs = np_array[row].view(self._dtype)[: 2 * count].reshape(count, 2)
            scale = 1.0 if self._dtype.kind == "i" else 1.0 / 32768.0
            pairs[:, 0], pairs[:, 1] = numbers * scale, channel * scale
        metadata.has_time_spec = timed
        if timed:
            since = self._sample / self._rate + self._step_s
            metadata.time_spec = TimeSpec(self._began.get_full_secs(), self._began.get_frac_secs() + since)
        self._sample += count
        return count
