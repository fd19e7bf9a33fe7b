"""Fits a site's twin to what was measured there: materials, the array's pose, gains of walls, and what is missing."""
