"""The world and its twin: site files, ray tracing, paths to channels, the RIS cascade, the simulated testbed.

A site bundle (`twin.h5`) is what leaves this room towards the controller; only `sim.tracer` touches Sionna RT.
"""
