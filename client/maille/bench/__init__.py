"""Measurements of a mesh: what `maille bench` runs."""
