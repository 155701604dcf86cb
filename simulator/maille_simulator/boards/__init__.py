"""Boards without hardware: the firmware that real boards run, on this machine."""
