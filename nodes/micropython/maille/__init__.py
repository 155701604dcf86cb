"""Maille on MicroPython: this board joins a mesh, is given tiny models and answers tasks."""

__version__ = "0.1.0"
