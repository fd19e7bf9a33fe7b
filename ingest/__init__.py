"""Bytes in, channels out: messages and their wire form, clock, sources, journal and the NR receiver.

This room knows no other room of the house. What leaves it is a `ChannelFrame`, wherever it came from.
"""
