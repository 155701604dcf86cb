"""Run by MicroPython: the serial link of boards without a network.

    micropython serial.py vectors FOLDER    every vector that concerns a board
    micropython serial.py traces FILE       what the twin in CPython was given gives what it gave

Prints a line for each fault and, at the end, how much was checked.
"""

import json
import sys

from maille.cbor import Writer
from maille.serial_framing import crc16, decode, encode
from maille.serial_link import Link
from maille.serial_port import Escape

from maille import serial_messages as wire

checks = 0


def check(ok, name, what):
    global checks
    checks += 1
    if not ok:
        print("FAULT", name, what)


class Silent:
    """An owner of a link whom nothing concerns."""

    def _nothing(self, *_):
        pass

    link_write = link_opened = link_closed = link_heard = link_sent = link_rate = _nothing


# --- vectors -------------------------------------------------------------------------------------


def frame_of(body):
    buffer = bytearray(64)
    buffer[1 : 1 + len(body)] = body
    return bytes(buffer[: encode(buffer, len(body))])


def body_of(data):
    """Header and payload of what stood before a delimiter; None: no frame."""
    buffer = bytearray(64)
    buffer[: min(len(data), 64)] = data[:64]
    size = decode(buffer, len(data))
    return None if size < 0 else bytes(buffer[:size])


def run_frames(file):
    for vector in file["crcs"]:
        data = bytes.fromhex(vector["data"])
        check(crc16(data, 0, len(data)).to_bytes(2, "little").hex() == vector["crc"], "crc", data)
    for vector in file["cobs"]:
        # A CRC is always there: what counts is what becomes of the bytes before it.
        data = bytes.fromhex(vector["data"])
        check(body_of(frame_of(data)[:-1]) == data, "cobs", data)
    for vector in file["good"]:
        body = bytes.fromhex(vector["hex"])
        framed = bytes.fromhex(vector["wire"])
        check(frame_of(body) == framed, vector["name"], "encode")
        check(body_of(framed[:-1]) == body, vector["name"], "decode")
        link = Link(Silent(), 1, 63, 100, 7, 0, 0)
        for byte in framed:
            link.receive(byte, 0)
        check((link.bad == 0) == (not vector["board"]), vector["name"], "header")
    for vector in file["bad"]:
        check(body_of(bytes.fromhex(vector["hex"])) is None, vector["name"], "no frame")
        link = Link(Silent(), 1, 63, 100, 7, 0, 0)
        for byte in bytes.fromhex(vector["hex"]) + b"\0":
            link.receive(byte, 0)
        check(link.bad == 1, vector["name"], "counted")
    for vector in file["bad_headers"]:
        if not vector["board"]:
            link = Link(Silent(), 1, 63, 100, 7, 0, 0)
            for byte in frame_of(bytes.fromhex(vector["hex"])):
                link.receive(byte, 0)
            check(link.bad == 1, vector["name"], "header")


def value_of(value):
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    if isinstance(value, list):
        return [value_of(item) for item in value]
    return value


def run_messages(file):
    writer = Writer(768)
    for vector in file["good"]:
        data = bytes.fromhex(vector["hex"])
        # JSON keeps no order here: the codec's own is that of the CDDL.
        fields = [value_of(vector["fields"][name]) for name in vector["order"]]
        if vector["code"] < wire.INFO:
            found = wire.unpack(data)
            wanted = [vector["code"]] + fields
            if vector["code"] == wire.OFFER:
                writer.at = 0
                writer.write(wanted[4])
                wanted[4] = bytes(writer.view[: writer.at])
                found[4] = bytes(found[4])
            check(found == wanted, vector["name"], "read")
        made = bytes(wire.pack(writer, [vector["code"]] + fields))
        check(made == data, vector["name"], "write")
    for vector in file["bad"]:
        try:
            wire.unpack(bytes.fromhex(vector["hex"]))
        except wire.Malformed:
            check(True, vector["name"], "refuse")
        else:
            check(False, vector["name"], "refuse")


# --- the way to the REPL ---------------------------------------------------------------------------


def asks(*pieces):
    """Whether the pieces, each a time and bytes, ask for the REPL."""
    escape = Escape()
    return any([escape.seen(byte, now_ms) for now_ms, data in pieces for byte in data])


def run_escape(file):
    for vector in file["good"]:
        framed = bytes.fromhex(vector["wire"])
        check(not asks((1000, framed), (1000, framed)), vector["name"], "no call for the REPL")
        check(asks((1000, framed + b"\r\x03")), vector["name"], "a call after it")
        check(not asks((1000, framed[:-1] + b"\r\x03")), vector["name"], "none within it")
        check(asks((1000, framed[:-1]), (1200, b"\r\x03")), vector["name"], "one after a pause")
    check(asks((0, b"\r\x03\r\x01")), "mpremote", "asks at once")
    check(asks((0, b"abc"), (900, b"\r"), (2000, b"\x03")), "a person", "is slower")
    check(not asks((0, b"\x03"), (900, b"\x03\x03")), "Ctrl-C alone", "is a byte as any other")


# --- traces --------------------------------------------------------------------------------------


class Owner:
    """The link behind the interface of the twin: it holds one message, so a queue stands before it."""

    def __init__(self, words):
        boot, window, most, rates, cause = [int(word) for word in words[:5]]
        self.queue = []
        self.under_way = None
        self.clear()
        schema = bytes.fromhex(words[5])
        self.link = Link(self, boot, window, most, rates, cause, float(words[6]), schema)

    def clear(self):
        self.wire = b""
        self.told = []
        self.ends = []

    def link_write(self, view):
        self.wire += bytes(view)

    def link_opened(self):
        self.ends.append("O")

    def link_closed(self):
        self.ends.append("C")
        if self.under_way is not None:
            self.told.append("L{}".format(self.under_way))
            self.under_way = None
        self.told += ["L{}".format(token) for token, _ in self.queue]
        self.queue = []

    def link_heard(self, view):
        self.told.append("R" + bytes(view).hex())

    def link_sent(self):
        self.told.append("D{}".format(self.under_way))
        self.under_way = None
        self.send_next()

    def link_rate(self, rate):
        self.told.append("V{}".format(rate))

    def send_next(self):
        if self.queue and self.link.free:
            self.under_way, message = self.queue.pop(0)
            self.link.send(message)

    def do(self, words):
        now_ms = float(words[1])
        kind = words[0]
        if kind == "B":
            for byte in bytes.fromhex(words[2]):
                self.link.receive(byte, now_ms)
        elif kind == "S":
            if self.link.session:
                self.queue.append((int(words[2]), bytes.fromhex(words[3])))
                self.send_next()
            else:
                self.told.append("L" + words[2])
        elif kind == "U":
            self.link.set_busy(words[2] == "1", now_ms)
        self.link.poll(now_ms)


def run_traces(path):
    owner = None
    lost = False
    now = []
    with open(path) as file:
        for line in file:
            words = line.rstrip("\n").split(" ")
            if words[0] == "N":
                owner = Owner(words[1:])
                lost = False
                owner.link.poll(float(words[7]))
            elif words[0] == "=" and not lost:
                found = " ".join(
                    [owner.wire.hex(), ",".join(sorted(owner.told)), "".join(owner.ends)]
                )
                check(found == " ".join(words[1:4]), words[4], (now, found, words[1:4]))
                # One fault is told; what follows from it is not.
                lost = found != " ".join(words[1:4])
                owner.clear()
            elif not lost:
                now = words[:3]
                owner.do(words)


if sys.argv[1] == "traces":
    run_traces(sys.argv[2])
else:
    with open(sys.argv[2] + "/serial_frames.json") as stream:
        frames = json.load(stream)
    run_frames(frames)
    run_escape(frames)
    with open(sys.argv[2] + "/serial_messages.json") as stream:
        run_messages(json.load(stream))
print("checks", checks)
