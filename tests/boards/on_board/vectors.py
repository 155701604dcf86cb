"""Run by MicroPython: the board library passes every vector that concerns a board.

    micropython vectors.py FOLDER_OF_VECTORS

Prints one line for each fault and, at the end, how many checks were made.
"""

import json
import struct
import sys

from maille.cbor import (
    ARRAY,
    BYTES,
    CODE,
    CONTENT,
    FLAG,
    ID,
    INT,
    LIST,
    OPTIONAL,
    TEXT,
    UINT,
    Reader,
    Writer,
)
from maille.container import read_model

from maille import codes, messages, tensors
from maille.errors import Refused, WireError

FOLDER = sys.argv[1]
checks = 0
faults = 0


def check(ok, file, name, what):
    global checks, faults
    checks += 1
    if not ok:
        faults += 1
        print("FAULT", file, name, what)


def load(file):
    with open(FOLDER + "/" + file + ".json") as stream:
        return json.load(stream)


def value_of(value):
    """A vector's value as the writer takes it."""
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    if isinstance(value, list):
        return [value_of(item) for item in value]
    return value


def plain(value):
    """What the reader gives, comparable with `value_of`."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def refuses(function, *arguments):
    try:
        function(*arguments)
    except WireError:
        return True
    return False


# --- cbor.json -----------------------------------------------------------------------------------

_TOP = (1 << 64) - 1


def schema_of(value):
    """A schema that a field holding `value` could have; None for what no field holds."""
    if isinstance(value, bool):
        return (FLAG,)
    if value is None:
        return (OPTIONAL, (FLAG,))
    if isinstance(value, int):
        return (UINT, _TOP) if value >= 0 else (INT, 1 << 40)
    if isinstance(value, str):
        return (TEXT, 2000)
    if isinstance(value, dict):
        return (BYTES, 0, 1 << 20) if "hex" in value else None
    items = [schema_of(item) for item in value]
    return None if None in items else (ARRAY,) + tuple(items)


FIELDS = [
    (UINT, _TOP),
    (INT, 1 << 40),
    (CODE, bytes(range(256))),
    (BYTES, 0, 1 << 20),
    (TEXT, 2000),
    (ID,),
    (FLAG,),
    (CONTENT,),
]
FIELDS += [(OPTIONAL, field) for field in FIELDS]
FIELDS += [(LIST, field) for field in FIELDS] + [(ARRAY, field) for field in FIELDS]


def whole(data, schema):
    reader = Reader(data)
    value = reader.read(schema)
    reader.ended()
    return value


def run_cbor():
    writer = Writer(70000)
    file = load("cbor")
    for vector in file["good"]:
        data = bytes.fromhex(vector["hex"])
        schema = schema_of(vector["value"])
        if schema is None:
            # Tags: only tensors have them, see tensors.json. No field takes them.
            check(all([refuses(whole, data, f) for f in FIELDS]), "cbor", vector["name"], "a field")
            continue
        wanted = value_of(vector["value"])
        check(plain(whole(data, schema)) == wanted, "cbor", vector["name"], "read")
        writer.at = 0
        writer.write(wanted)
        same = writer.view[: writer.at] == data
        check(same == vector["write"], "cbor", vector["name"], "write")
    for kind in ("bad", "unused"):
        for vector in file[kind]:
            data = bytes.fromhex(vector["hex"])
            for field in FIELDS:
                check(refuses(whole, data, field), "cbor", vector["name"], field)


# --- envelope.json, messages.json, topics.json ---------------------------------------------------

STATUS = (ARRAY, (CODE, b"\0\1\2\3\4\5"), (TEXT, 2000))


def run_envelope():
    writer = Writer(64)
    file = load("envelope")
    messages.BODIES[codes.NODE_STATUS] = STATUS
    for vector in file["good"]:
        data = bytes.fromhex(vector["hex"])
        boot, seq, epoch, body = messages.unpack(codes.NODE_STATUS, data)
        same = (boot, seq, epoch) == (vector["boot"], vector["seq"], vector["epoch"])
        check(same, "envelope", vector["name"], "read")
        written = messages.pack(writer, codes.NODE_STATUS, boot, seq, epoch, body)
        check(written == data, "envelope", vector["name"], "write")
    for vector in file["bad"]:
        data = bytes.fromhex(vector["hex"])
        ok = refuses(messages.unpack, codes.NODE_STATUS, data)
        check(ok, "envelope", vector["name"], "refuse")
    del messages.BODIES[codes.NODE_STATUS]


def run_messages():
    writer = Writer(60000)
    file = load("messages")
    spoken = messages.Topics("home", "node-1").up
    seen = set()
    for vector in file["good"]:
        kind = vector["type"]
        data = bytes.fromhex(vector["hex"])
        body = value_of(vector["body"])
        if kind in messages.BODIES:
            seen.add(kind)
            boot, seq, epoch, read = messages.unpack(kind, data)
            same = (boot, seq, epoch) == (vector["boot"], vector["seq"], vector["epoch"])
            check(same and plain(read) == body, "messages", vector["name"], "read")
        if kind in messages.BODIES or kind in spoken:
            seen.add(kind)
            written = messages.pack(
                writer, kind, vector["boot"], vector["seq"], vector["epoch"], body
            )
            check(written == data, "messages", vector["name"], "write")
    check(seen == set(messages.BODIES) | set(spoken), "messages", "types", "all are there")
    for vector in file["bad"]:
        if vector["type"] in messages.BODIES:
            data = bytes.fromhex(vector["hex"])
            ok = refuses(messages.unpack, vector["type"], data)
            check(ok, "messages", vector["name"], "refuse")


def run_topics():
    file = load("topics")
    for vector in file["good"]:
        topic, kind = vector["topic"].encode(), vector["type"]
        if vector["party"] == "n":
            topics = messages.Topics(vector["mesh"], vector["identity"])
            if kind in topics.up:
                check(topics.up[kind] == topic, "topics", vector["topic"], "build")
            heard = kind if kind in messages.BODIES else 0
        else:
            topics = messages.Topics(vector["mesh"], "node-1")
            heard = kind if vector["party"] == "c" else 0
        check(topics.type_of(memoryview(topic)) == heard, "topics", vector["topic"], "take apart")
    for vector in file["bad"]:
        for topics in (messages.Topics("home", "node-1"), messages.Topics("home", "n1")):
            heard = topics.type_of(memoryview(vector["topic"].encode()))
            check(heard == 0, "topics", vector["topic"], "refuse")


# --- tensors.json --------------------------------------------------------------------------------

TAGS = {
    "uint8": (64, 68),
    "uint16": (69, 65),
    "uint32": (70, 66),
    "uint64": (71, 67),
    "int8": (72,),
    "int16": (77, 73),
    "int32": (78, 74),
    "int64": (79, 75),
    "float16": (84, 80),
    "float32": (85, 81),
    "float64": (86, 82),
    "bool": (0,),
    "str": (0,),
}
FORMATS = "BHIQ"


def integers(tag, octets):
    """The elements of an integer tensor."""
    size = tensors._ITEM_BYTES[tag]
    letter = FORMATS[(1, 2, 4, 8).index(size)]
    if tag >= 72:
        letter = letter.lower()
    order = ">" if tag in (65, 66, 67, 73, 74, 75) else "<"
    return list(struct.unpack(order + str(len(octets) // size) + letter, octets))


def run_tensors():
    writer = Writer(4096)
    file = load("tensors")
    for vector in file["good"]:
        data = bytes.fromhex(vector["hex"])
        found = tensors.read(data)
        wanted = vector["tensors"]
        check(len(found) == len(wanted), "tensors", vector["name"], "number")
        for (name, tag, shape, octets), tensor in zip(found, wanted):
            same = name == tensor["name"] and shape == tensor["shape"]
            check(same and tag in TAGS[tensor["dtype"]], "tensors", vector["name"], "read")
            if octets is not None and "int" in tensor["dtype"]:
                same = integers(tag, octets) == tensor["elements"]
                check(same, "tensors", vector["name"], "elements")
        if all([item[3] is not None for item in found]) and vector["write"]:
            writer.at = 0
            tensors.write(writer, found)
            check(writer.view[: writer.at] == data, "tensors", vector["name"], "write")
    for vector in file["bad"]:
        data = bytes.fromhex(vector["hex"])
        check(refuses(tensors.read, data), "tensors", vector["name"], "refuse")


# --- tiny.json -----------------------------------------------------------------------------------


def run_tiny(kernels):
    file = load("tiny")
    arena = bytearray(1 << 16)
    name = kernels.__name__
    for vector in file["good"]:
        model = read_model(bytes.fromhex(vector["hex"]), arena, kernels)
        for index in range(model.self_tests()):
            check(model.self_test(index), name, vector["name"], "self-test")
        for run in vector["runs"]:
            octets = bytes.fromhex(run["inputs"])
            at = 0
            for tensor in model.inputs:
                size = tensor.size_bytes
                arena[tensor.offset : tensor.offset + size] = octets[at : at + size]
                at += size
            model.run()
            made = b"".join([bytes(item[3]) for item in model.take_outputs()])
            check(made.hex() == run["outputs"], name, vector["name"], "run")
    for vector in file["bad"]:
        data = bytes.fromhex(vector["hex"])
        try:
            model = read_model(data, arena, kernels)
        except Refused as error:
            check(bool(error.text) and error.code in (12, 17, 106), name, vector["name"], "code")
            continue
        check(not vector["board"], name, vector["name"], "refuse")
        for index in range(model.self_tests()):
            model.self_test(index)


run_cbor()
run_envelope()
run_messages()
run_topics()
run_tensors()
from maille import kernels_python, kernels_viper

run_tiny(kernels_viper)
run_tiny(kernels_python)
print("checks", checks, "faults", faults)
