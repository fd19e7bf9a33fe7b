"""The live page and `/metrics`: what a person beside the testbed watches. Served by a thread of its own."""
