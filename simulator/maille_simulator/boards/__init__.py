"""Boards without hardware: the real firmware as AVR machine code, in virtual time or on a pty."""
