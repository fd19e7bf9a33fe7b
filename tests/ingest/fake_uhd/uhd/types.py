"""UHD's types: times, tuning, commands to a stream, and what comes with received samples."""

import enum
import math


class TimeSpec:
    def __init__(self, full_secs, frac_secs=None):
        if frac_secs is None:
            frac_secs, full_secs = math.modf(full_secs)
        whole = math.floor(frac_secs)
        self._full, self._frac = int(full_secs) + whole, frac_secs - whole

    def get_full_secs(self):
        return self._full

    def get_frac_secs(self):
        return self._frac

    def get_real_secs(self):
        return self._full + self._frac


class TuneRequest:
    def __init__(self, target_freq):
        self.target_freq = target_freq


class StreamMode(enum.Enum):
    start_cont = ord("a")
    stop_cont = ord("o")


class StreamCMD:
    def __init__(self, stream_mode):
        self._stream_mode = stream_mode
        self.stream_now = True
        self.time_spec = TimeSpec(0.0)


class RXMetadataErrorCode(enum.Enum):
    none = 0x0
    timeout = 0x1
    late = 0x2
    broken_chain = 0x4
    overflow = 0x8
    alignment = 0xC
    bad_packet = 0xF


class RXMetadata:
    def __init__(self):
        self.reset()

    def reset(self):
        self.has_time_spec = False
        self.time_spec = TimeSpec(0.0)
        self.error_code = RXMetadataErrorCode.none
        self.out_of_sequence = False

    def strerror(self):
        return self.error_code.name
