"""A radio that is not there, behind the names of UHD's Python module: what `deploy/usrp_bridge.py` uses of it.

`FAKE_UHD` holds JSON: `rate_hz` that the radio settles on, and `events`, what each `recv` meets in turn:
`{"samples": n}`, `{"overflow": lost}`, `{"timeout": 1}`, `{"late": 1}`, `{"error": name}`, `{"untimed": n}`,
`{"clock_s": step}`. Sample i of channel c is the pair (i mod 30000, c); after the last event nothing more comes.
"""

from . import types, usrp

__all__ = ["types", "usrp"]
