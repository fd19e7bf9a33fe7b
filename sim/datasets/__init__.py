"""Data sets of channels, drawn from a traced site: `twinbeam dataset make SPEC`.

A set is a function of its specification alone: it is the same byte for byte with one worker or many, on processes or
on Ray, in one go or killed and resumed.
"""
