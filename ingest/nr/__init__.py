"""A 5G NR receiver for reference signals: it finds cells and estimates channels, and decodes no user data.

Terms, symbols and clause numbers are those of 3GPP TS 38.211 (physical channels), 38.213 (cell search) and 38.104
(raster). Reading order: `numerology`, `sequences`, `raster`, `band`, `cell_search`, `ssb`, `receiver`.
"""
