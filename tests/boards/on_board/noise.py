"""Run by MicroPython: damaged messages, tensors and models are refused or harmless.

    micropython noise.py FOLDER_OF_VECTORS SEED ROUNDS

Whatever a damaged model does, it does within its arena: canaries on both sides tell.
"""

import json
import random
import sys

from maille.container import read_model

from maille import kernels_viper, messages, tensors
from maille.errors import Refused, WireError

FOLDER, SEED, ROUNDS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
MARGIN = 512
ARENA_BYTES = 2048
random.seed(SEED)


def load(file):
    with open(FOLDER + "/" + file + ".json") as stream:
        return json.load(stream)["good"]


def damaged(data, reach):
    made = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(min(len(made), reach))
        kind = random.randrange(4)
        if kind == 0:
            made[at] = random.getrandbits(8)
        elif kind == 1:
            made[at] ^= 1 << random.randrange(8)
        elif kind == 2:
            made = made[:at] + bytes([random.getrandbits(8)]) + made[at:]
        elif len(made) > 2:
            made = made[:at] + made[at + 1 :]
    return bytes(made)


heard = [(v["type"], bytes.fromhex(v["hex"])) for v in load("messages")]
heard = [(kind, data) for kind, data in heard if kind in messages.BODIES and len(data) < 2000]
inputs = [bytes.fromhex(v["hex"]) for v in load("tensors")]
models = [bytes.fromhex(v["hex"]) for v in load("tiny")]
whole = bytearray(b"\xa5" * (ARENA_BYTES + 2 * MARGIN))
arena = memoryview(whole)[MARGIN : MARGIN + ARENA_BYTES]
canary = b"\xa5" * MARGIN
refused = ran = 0

for _ in range(ROUNDS):
    kind, data = random.choice(heard)
    try:
        messages.unpack(kind, damaged(data, 200))
        ran += 1
    except WireError:
        refused += 1
    try:
        tensors.read(damaged(random.choice(inputs), 200))
        ran += 1
    except WireError:
        refused += 1
    try:
        model = read_model(damaged(random.choice(models), 200), arena, kernels_viper)
        for index in range(min(model.self_tests(), 3)):
            model.self_test(index)
        ran += 1
    except Refused:
        refused += 1
    if whole[:MARGIN] != canary or whole[-MARGIN:] != canary:
        print("FAULT written beyond the arena")
        break
print("refused", refused)
print("ran", ran)
