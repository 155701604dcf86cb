"""Hypothesis strategies for every message and for named tensors."""

from typing import cast

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maille_protocol import (
    Accepted,
    Activation,
    ActivationKind,
    Ask,
    BoardState,
    Cancel,
    Chunk,
    Control,
    ControlOrder,
    CoordinatorState,
    ErrorCode,
    Finish,
    Grammar,
    Heartbeat,
    HeldModel,
    Kernel,
    KernelSpeed,
    Log,
    Measured,
    Message,
    MessageType,
    ModelCommand,
    ModelFormat,
    ModelOrder,
    ModelReference,
    ModelReport,
    ModelState,
    NodeInfo,
    NodeKind,
    NodeState,
    NodeStatus,
    Offer,
    Offers,
    Outcome,
    Outcomes,
    OutcomeStatus,
    Progress,
    ProgressMark,
    Reading,
    Readings,
    Reference,
    ResetCause,
    Result,
    Results,
    ResultStatus,
    Route,
    Sampling,
    SenseCommand,
    SenseMode,
    SenseOrder,
    Sensor,
    SessionCommand,
    SessionOrder,
    StageCommand,
    StageOrder,
    StageReport,
    StageState,
    Submission,
    Submit,
    TaskFlag,
    Token,
    Tokens,
    Withdraw,
)
from maille_protocol.contents import Content
from maille_protocol.limits import ID_PATTERN, MAX_ARTEFACT_BYTES, MAX_UINT64
from maille_protocol.tensors import Array

uint16 = st.integers(0, (1 << 16) - 1)
uint32 = st.integers(0, (1 << 32) - 1)
uint64 = st.integers(0, MAX_UINT64)
task_ids = st.binary(min_size=16, max_size=16)
sha256s = st.binary(min_size=32, max_size=32)
identifiers = st.from_regex(ID_PATTERN, fullmatch=True)
sizes = st.integers(0, MAX_ARTEFACT_BYTES)
references = st.builds(Reference, sha256s, sizes)
contents: st.SearchStrategy[Content] = st.one_of(st.binary(max_size=200), references)
error_codes = st.sampled_from(ErrorCode)
flags = st.integers(0, 255)
attempts = st.tuples(task_ids, uint32)
offers = st.builds(
    Offer,
    task_ids,
    uint32,
    uint64,
    flags.map(lambda bits: bits & ~int(TaskFlag.AT_MOST_ONCE)),
    contents,
) | st.builds(
    Offer,
    task_ids,
    uint32,
    uint64,
    flags.map(lambda bits: bits | int(TaskFlag.AT_MOST_ONCE)),
    contents,
    st.integers(1, MAX_UINT64),
)


def text(maximum: int) -> st.SearchStrategy[str]:
    return st.text(max_size=min(maximum, 40)) | st.just("\U0001f9f6" * maximum)


def many(items: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(items, max_size=4).map(tuple)


measured = st.builds(
    Measured,
    uint16,
    uint64,
    uint64,
    uint64,
    uint64,
    many(cast("st.SearchStrategy[object]", text(200))),
)
results = st.builds(
    Result,
    task_ids,
    uint32,
    uint64,
    st.sampled_from(ResultStatus),
    error_codes,
    contents,
    uint64,
    uint64,
)
models = st.builds(ModelReference, text(64), uint32, sha256s, sizes, st.sampled_from(ModelFormat))
outcomes = st.builds(
    Outcome,
    task_ids,
    st.sampled_from(OutcomeStatus),
    error_codes,
    contents,
    text(32),
    uint32,
    uint64,
    uint64,
)

stages = st.integers(0, 255)
positions = st.integers(0, 1 << 24)
shares = st.integers(0, 1_000_000)
logprobs = st.integers(-(1 << 40), 1 << 40)
penalties = st.integers(-100_000_000, 100_000_000)
token_lists = st.lists(uint32, max_size=40).map(
    lambda tokens: b"".join(token.to_bytes(4, "little") for token in tokens)
)
tokens = st.builds(Token, uint32, logprobs, many(st.tuples(uint32, logprobs)))
samplings = st.builds(
    Sampling,
    st.integers(0, 100_000_000),
    uint32,
    shares,
    shares,
    st.integers(0, 100_000_000),
    positions,
    penalties,
    penalties,
    uint64,
    st.integers(0, 20),
    many(st.tuples(uint32, st.integers(-1_000_000_000, 1_000_000_000))),
    st.none() | st.builds(Grammar, st.binary(max_size=64), references),
)
activations = st.integers(1, 65535).flatmap(
    lambda parts: st.builds(
        Activation,
        uint32,
        uint32,
        uint32,
        stages,
        positions,
        st.integers(1, 65535),
        st.sampled_from(ActivationKind),
        flags,
        stages,
        st.integers(0, parts - 1),
        st.just(parts),
        st.binary(max_size=300),
    )
)

sensors = st.builds(Sensor, text(32), uint16)
held_models = st.builds(HeldModel, text(64), sha256s, st.booleans())
kernel_speeds = st.builds(KernelSpeed, st.sampled_from(Kernel), uint64)
readings = st.builds(Reading, uint32, uint32, uint32, error_codes, st.binary(max_size=200), uint64)

MESSAGES: dict[MessageType, st.SearchStrategy[Message]] = {
    MessageType.NODE_STATUS: st.builds(NodeStatus, st.sampled_from(NodeState), text(2000)),
    MessageType.NODE_INFO: st.builds(
        NodeInfo,
        st.sampled_from(NodeKind),
        text(64),
        text(64),
        st.integers(0, 4096),
        many(st.sampled_from(ModelFormat)),
        uint32,
        measured,
        st.none() | identifiers,
    ),
    MessageType.HEARTBEAT: st.builds(
        Heartbeat,
        uint64,
        uint32,
        uint32,
        uint64,
        st.none() | st.integers(0, 100),
        many(st.binary(min_size=8, max_size=8)),
        many(attempts),
    ),
    MessageType.RESULTS: st.builds(Results, many(results)),
    MessageType.PROGRESS: st.builds(
        Progress,
        many(st.builds(ProgressMark, task_ids, uint32, uint64, st.integers(0, 1000))),
    ),
    MessageType.LOG: st.builds(Log, st.integers(0, 50), text(2000)),
    MessageType.TOKENS: st.builds(
        Tokens, uint32, uint32, positions, many(tokens), st.sampled_from(Finish), text(2000)
    ),
    MessageType.STAGE_REPORT: st.builds(
        StageReport,
        st.sampled_from(StageState),
        uint32,
        stages,
        uint32,
        error_codes,
        text(2000),
        uint64,
        uint64,
        uint64,
        uint64,
        st.binary(max_size=16),
        uint32,
        positions,
    ),
    MessageType.OFFERS: st.builds(Offers, models, many(offers)),
    MessageType.CANCEL: st.builds(Cancel, many(attempts)),
    MessageType.CONTROL: st.builds(ControlOrder, st.sampled_from(Control), uint64, text(2000)),
    MessageType.STAGE_ORDER: st.builds(
        StageOrder,
        st.sampled_from(StageCommand),
        uint32,
        stages,
        st.none() | references,
        uint64,
        uint32,
    ),
    MessageType.ROUTE: st.builds(
        Route,
        uint32,
        uint32,
        st.lists(
            st.lists(identifiers, min_size=1, max_size=9).map(tuple), min_size=1, max_size=4
        ).map(tuple),
    ),
    MessageType.SESSION_ORDER: st.builds(
        SessionOrder,
        st.sampled_from(SessionCommand),
        uint32,
        uint32,
        uint32,
        stages,
        positions,
        stages,
        positions,
        token_lists,
        st.none() | samplings,
        positions,
        token_lists,
        positions,
        uint32,
        positions,
    ),
    MessageType.ACTIVATION: activations,
    MessageType.MODEL_ORDER: st.builds(
        ModelOrder, st.sampled_from(ModelCommand), st.none() | models, uint32
    ),
    MessageType.CHUNK: st.builds(Chunk, sha256s, sizes, st.binary(max_size=512)),
    MessageType.SENSE_ORDER: st.builds(
        SenseOrder,
        st.sampled_from(SenseCommand),
        uint32,
        st.none() | sha256s,
        text(32),
        uint32,
        st.sampled_from(SenseMode),
    ),
    MessageType.MODEL_REPORT: st.builds(
        ModelReport,
        st.sampled_from(ModelState),
        st.none() | sha256s,
        uint32,
        sizes,
        st.integers(0, 512),
        error_codes,
        text(2000),
        uint64,
    ),
    MessageType.READINGS: st.builds(Readings, many(readings)),
    MessageType.BOARD_STATE: st.builds(
        BoardState,
        many(sensors),
        many(held_models),
        many(kernel_speeds),
        uint16,
        uint16,
        sizes,
        uint32,
        uint64,
        uint32,
        st.sampled_from(ResetCause),
        uint32,
        many(uint32),
    ),
    MessageType.COORDINATOR_STATE: st.builds(CoordinatorState, st.booleans(), text(200)),
    MessageType.SUBMIT: st.builds(
        Submit,
        uint64,
        text(64),
        uint32,
        st.integers(0, 9),
        uint32,
        st.integers(0, 100),
        flags,
        st.none() | identifiers,
        many(st.builds(Submission, task_ids, contents)),
    ),
    MessageType.ASK: st.builds(Ask, many(task_ids)),
    MessageType.WITHDRAW: st.builds(Withdraw, many(task_ids)),
    MessageType.ACCEPTED: st.builds(Accepted, many(uint64)),
    MessageType.OUTCOMES: st.builds(Outcomes, many(outcomes)),
}
any_message: st.SearchStrategy[Message] = st.one_of(*MESSAGES.values())

_DTYPES = [
    np.dtype(order + code)
    for code in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
    for order in "<>"
] + [np.dtype(np.bool_)]
_shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
_numbers = st.sampled_from(_DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, _shapes))
# An empty array of texts is left out: on the wire it is the same as one of booleans.
_texts = hnp.arrays(
    np.dtype(object), hnp.array_shapes(max_dims=3, max_side=3), elements=st.text(max_size=8)
)
arrays = cast("st.SearchStrategy[Array]", st.one_of(_numbers, _texts))
named_tensors: st.SearchStrategy[dict[str, Array]] = st.dictionaries(
    st.text(max_size=12), arrays, max_size=4
)
