"""The daemon: from channel frames to precoder and RIS phases, every coherence block, before its deadline.

Read `pipeline.py` first: it is the algorithm in order. `daemon.py` is the edge around it.
"""
