"""Values of boards' messages that our encoder turns into vectors: extremes and the usual."""

import numpy as np

from maille_protocol import (
    BoardState,
    Chunk,
    ErrorCode,
    HeldModel,
    Kernel,
    KernelSpeed,
    Message,
    ModelCommand,
    ModelFormat,
    ModelOrder,
    ModelReference,
    ModelReport,
    ModelState,
    Reading,
    Readings,
    ResetCause,
    SenseCommand,
    SenseMode,
    SenseOrder,
    Sensor,
)
from maille_protocol.limits import MAX_ARTEFACT_BYTES, MAX_CHUNK_BYTES, MAX_UINT64
from maille_protocol.tensors import encode_tensors
from vector_sources.common import SHA256

_MAX_UINT16 = (1 << 16) - 1
_MAX_UINT32 = (1 << 32) - 1
_SHA256 = bytes.fromhex(SHA256)
_MODEL = ModelReference("digits-tiny", 3, _SHA256, 3_210, ModelFormat.TINY)
_CLASS = encode_tensors({"class": np.array([7], dtype=np.uint8)})
_LONG_NAME = "\u00e9" * 32

PROPOSED_BOARDS: list[tuple[str, Message]] = [
    ("model_evict", ModelOrder(ModelCommand.EVICT, _MODEL, _MAX_UINT32)),
    ("model_report_wanted", ModelOrder(ModelCommand.REPORT, None, 0)),
    ("chunk_largest", Chunk(_SHA256, MAX_ARTEFACT_BYTES, bytes(range(256)) * 2)),
    ("chunk_empty", Chunk(_SHA256, 0, b"")),
    (
        "sense_start_largest",
        SenseOrder(
            SenseCommand.START,
            _MAX_UINT32,
            _SHA256,
            _LONG_NAME,
            _MAX_UINT32,
            SenseMode.ALWAYS,
        ),
    ),
    (
        "model_report_largest",
        ModelReport(
            ModelState.WANT,
            _SHA256,
            _MAX_UINT32,
            MAX_ARTEFACT_BYTES,
            MAX_CHUNK_BYTES,
            ErrorCode.DUPLICATE_ID,
            "\u00fc" * 2000,
            MAX_UINT64,
        ),
    ),
    ("model_gone", ModelReport(ModelState.GONE, _SHA256, 4)),
    ("model_calibrated", ModelReport(ModelState.CALIBRATED, None, 5)),
    (
        "model_too_large",
        ModelReport(
            ModelState.FAILED,
            _SHA256,
            6,
            code=ErrorCode.MODEL_TOO_LARGE,
            text="3210 bytes, 1000 fit",
        ),
    ),
    ("readings_none", Readings(())),
    (
        "readings_of_two",
        Readings(
            (
                Reading(1, 1, 0, ErrorCode.NONE, _CLASS, 812),
                Reading(
                    _MAX_UINT32,
                    _MAX_UINT32,
                    _MAX_UINT32,
                    ErrorCode.SENSOR_ERROR,
                    b"no answer on the bus",
                    MAX_UINT64,
                ),
            )
        ),
    ),
    (
        "board_state_smallest",
        BoardState((), (), (), 0, 0, 0, 0, 0, 0, ResetCause.UNKNOWN, 0, ()),
    ),
    (
        "board_state_largest",
        BoardState(
            (Sensor(_LONG_NAME, _MAX_UINT16),),
            (HeldModel("\u00e9" * 64, _SHA256, False), HeldModel("", _SHA256[::-1], True)),
            tuple(KernelSpeed(kernel, MAX_UINT64) for kernel in Kernel),
            _MAX_UINT16,
            _MAX_UINT16,
            MAX_ARTEFACT_BYTES,
            _MAX_UINT32,
            MAX_UINT64,
            _MAX_UINT32,
            ResetCause.SLEEP,
            _MAX_UINT32,
            (0, 1, _MAX_UINT32),
        ),
    ),
]
