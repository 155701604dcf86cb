"""Whole meshes without hardware: in virtual time by the thousand, in real time with real parts."""
