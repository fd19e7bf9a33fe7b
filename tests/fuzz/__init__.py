"""Feeds every parser of ours bytes nobody meant it to get, a stated number of times: `make fuzz`.

`targets*.py` say what is fuzzed, `mutate.py` and `formats*.py` how good input is made bad without stopping at the first
checksum, `judge.py` what one execution may do, `worker.py` runs one target, `__main__.py` all of them.
"""
