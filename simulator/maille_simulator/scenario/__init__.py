"""Scenarios: which mesh, which load, which trouble, and what must hold at the end."""
