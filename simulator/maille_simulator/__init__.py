"""Simulated meshes; nothing is here yet."""
