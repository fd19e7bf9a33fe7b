"""Tests of every room, in folders named as the rooms.

Importing `twinbeam` here, before anything imports NumPy, sets how many threads linear algebra uses.
"""

import twinbeam as twinbeam
