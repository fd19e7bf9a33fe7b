"""The papers' tables and figures, one file each, and the benchmarks. May import every room."""
