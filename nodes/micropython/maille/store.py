"""The models of a board on its file system: two slots, one in use, one to write the next into.

    current    record of the model in use and of the one before it
    incoming   record of the model on its way
    a, b       the slots

Records change by renaming, which a power cut leaves done or undone (littlefs, POSIX). What a
slot holds counts only if its SHA-256 is that of its record, so it does not matter what a cut
leaves in it: at worst the transfer goes on, or begins, again.
"""

import hashlib
import os
import time

from . import codes, forget
from .cbor import ARRAY, BYTES, CODE, LIST, MAX_ARTEFACT_BYTES, TEXT, UINT, Reader, Writer
from .delivery import Held
from .errors import Refused, WireError
from .tiny import Model

_SIZE = (UINT, MAX_ARTEFACT_BYTES)
_RECORD = (ARRAY, (CODE, b"\0\1"), (TEXT, 64), (UINT, 0xFFFFFFFF), (BYTES, 32, 32), _SIZE)
_RECORDS = (LIST, _RECORD)
_SLOTS = ("a", "b")


class Store:
    """Models on flash and the one in memory.

    Args:
        folder: where the files are; made if it is not there.
        max_model_bytes: the largest model; so much memory is taken once.
        arena_bytes: for the activations of any model; taken once.
        kernels: the module of kernels.
    """

    def __init__(self, folder: str, max_model_bytes: int, arena_bytes: int, kernels=None) -> None:
        self._folder = folder
        self._kernels = kernels
        self._buffer = memoryview(bytearray(max_model_bytes))
        self.arena = bytearray(arena_bytes)
        self.model: Model | None = None
        """The model in memory, ready to run."""
        self._records: list = []
        self._coming: list | None = None
        self._writer = Writer(320)
        self.texts: list = []
        """What happened while loading, for the log."""
        try:
            os.mkdir(folder)
        except OSError:
            pass  # It is there, or the first write says what is wrong.

    # --- files ---------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return self._folder + "/" + name

    def _read(self, name: str) -> list:
        try:
            with open(self._path(name), "rb") as file:
                data = file.read(320)
            reader = Reader(data)
            records = reader.read(_RECORDS)
            reader.ended()
            return records
        except (OSError, WireError):
            return []

    def _write(self, name: str, records: list) -> None:
        writer = self._writer
        writer.at = 0
        writer.write(records)
        with open(self._path("new"), "wb") as file:
            file.write(writer.view[: writer.at])
        os.rename(self._path("new"), self._path(name))

    def _remove(self, name: str) -> None:
        try:
            os.remove(self._path(name))
        except OSError:
            pass  # It was not there.

    def _size(self, name: str) -> int:
        try:
            return os.stat(self._path(name))[6]
        except OSError:
            return 0

    # --- loading -------------------------------------------------------------------------------

    def _load(self, record: list) -> int:
        """Take a model into memory, verify and test it; the time of one run in us; Refused."""
        slot, name, _, sha256, size_bytes = record
        self.model = None
        if size_bytes > len(self._buffer):
            raise Refused(codes.MODEL_TOO_LARGE, "{} takes {} bytes".format(name, size_bytes))
        data = self._buffer[:size_bytes]
        try:
            with open(self._path(_SLOTS[slot]), "rb") as file:
                read = file.readinto(data)
        except OSError as error:
            raise Refused(codes.NODE_ERROR, "cannot read the model: {}".format(error)) from None
        if read != size_bytes or hashlib.sha256(data).digest() != sha256:
            raise Refused(codes.ARTEFACT_CORRUPT, "{} has another SHA-256 on flash".format(name))
        from .container import read_model

        try:
            model = read_model(data, self.arena, self._kernels)
        finally:
            forget("container")
        began = time.ticks_us()
        for index in range(model.self_tests()):
            if not model.self_test(index):
                text = "{}: test vector {} gives other bytes here".format(name, index)
                raise Refused(codes.SELF_TEST_FAILED, text)
        self.model = model
        return time.ticks_diff(time.ticks_us(), began) // model.self_tests()

    def _held(self, run_us: int) -> list:
        _, name, _, sha256, size_bytes = self._records[0]
        inputs = self.model.inputs
        fed = len(inputs) == 1 and inputs[0].kind != 2
        return [Held(name, sha256, size_bytes, run_us, inputs[0].count if fed else 0)]

    def load(self) -> list:
        """Take the model in use into memory, or the one before it; what is held then."""
        self._records = self._read("current")
        while self._records:
            try:
                run_us = self._load(self._records[0])
            except Refused as error:
                self.texts.append(error.text)
                self._records = self._records[1:]
                continue
            return self._held(run_us)
        return []

    # --- delivery ------------------------------------------------------------------------------

    def begin(self, model: list) -> int:
        """Make ready for a model (reference as in the messages); how much of it is here; Refused."""
        name, version, sha256, size_bytes, _ = model
        incoming = self._read("incoming")
        slot = 1 - self._records[0][0] if self._records else 0
        record = [slot, name, version, sha256, size_bytes]
        try:
            if not incoming or incoming[0][0] != slot or incoming[0][3:] != record[3:]:
                # The slot first: no record may ever speak of bytes that are not its own.
                self._remove(_SLOTS[slot])
                self._write("incoming", [record])
        except OSError as error:
            raise _no_space(error) from None
        self._coming = record
        return min(self._size(_SLOTS[slot]), size_bytes)

    def store(self, data: bytes) -> int:
        """Add a part; how much is here now; Refused."""
        path = self._path(_SLOTS[self._coming[0]])
        try:
            with open(path, "ab") as file:
                file.write(data)
        except OSError as error:
            raise _no_space(error) from None
        return self._size(_SLOTS[self._coming[0]])

    def finish(self) -> tuple:
        """Verify, test, then switch: (models held, time of a run in us); Refused, the old stays."""
        record = self._coming
        try:
            run_us = self._load(record)
            self._write("current", [record] + self._records[:1])
        except (Refused, OSError, MemoryError) as error:
            self.discard()
            self.load()
            if isinstance(error, Refused):
                raise
            if isinstance(error, MemoryError):
                raise Refused(codes.OUT_OF_MEMORY, "no memory for the model's plan") from None
            raise _no_space(error) from None
        self._records = [record] + self._records[:1]
        self._coming = None
        self._remove("incoming")
        return self._held(run_us), run_us

    def discard(self) -> None:
        """Forget the model on its way."""
        if self._coming is not None:
            self._remove(_SLOTS[self._coming[0]])
            self._remove("incoming")
            self._coming = None

    def evict(self, sha256: bytes) -> None:
        """Forget a model, in use or on its way."""
        if self._coming is not None and self._coming[3] == sha256:
            self.discard()
        if self._records and self._records[0][3] == sha256:
            self._remove("current")
            for record in self._records:
                self._remove(_SLOTS[record[0]])
            self._records = []
            self.model = None


def _no_space(error: OSError) -> Refused:
    return Refused(codes.NO_SPACE, "cannot write the model: {}".format(error))
