"""The test suite; folders mirror the rooms."""
