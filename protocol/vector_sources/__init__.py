"""Vectors whose bytes were written by hand or copied from RFCs, never made by our encoder.

`make_vectors.py` copies them into `vectors/*.json`. Spaces in the hex separate fields.
"""
