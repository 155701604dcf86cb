"""Run by MicroPython: layers of one file of cases give the bytes that NumPy gave.

    micropython layers.py CASES

A case is three strings of bytes, each after its length (uint32, little-endian): container, inputs,
outputs. Prints a line for each fault and, at the end, how many cases were run.
"""

import struct
import sys

from maille.container import read_model

from maille import kernels_python, kernels_viper


def string(file):
    head = file.read(4)
    return file.read(struct.unpack("<I", head)[0]) if head else None


cases = 0
arena = bytearray(1 << 16)
with open(sys.argv[1], "rb") as file:
    while True:
        container = string(file)
        if container is None:
            break
        inputs = string(file)
        outputs = string(file)
        for kernels in (kernels_viper, kernels_python):
            model = read_model(container, arena, kernels)
            at = 0
            for tensor in model.inputs:
                size = tensor.size_bytes
                arena[tensor.offset : tensor.offset + size] = inputs[at : at + size]
                at += size
            model.run()
            made = b"".join([bytes(item[3]) for item in model.take_outputs()])
            if made != outputs:
                print("FAULT", cases, kernels.__name__, made.hex(), outputs.hex())
        cases += 1
print("cases", cases)
