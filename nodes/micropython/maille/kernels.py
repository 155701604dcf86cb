"""The kernels for this interpreter: machine code where it works, the pure-Python twin elsewhere.

Viper may be missing (SyntaxError), be built for another processor (ValueError), find no
executable memory left (MemoryError), or, on a broken port, compute something else.
"""

from array import array


def _known_answer(dense) -> bool:
    """Whether `dense` gives what was computed by hand."""
    arena = bytearray(b"\1\2\3\4\5\0")
    # One output: bias -2, times 1/2, rounded by a shift of 1, zero point 7.
    model = b"\xfe\xff\xff\xff\x00\x80\x01\x81\x82\x7f\x80\xff"
    dense(arena, model, array("i", [0, 5, 5, 1, 7, 0, 255, 0, 7]))
    return arena[5] == 166


def choose(wanted: str = ""):
    """The module of kernels: "viper", "python", or "" for the fastest that works."""
    if wanted != "python":
        try:
            from . import kernels_viper

            if _known_answer(kernels_viper.dense):
                return kernels_viper
        except (SyntaxError, ValueError, MemoryError, ImportError):
            pass
    from . import kernels_python

    return kernels_python
