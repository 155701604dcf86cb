"""Messages of language models that our encoder turns into vectors: every command, and extremes."""

from maille_protocol import (
    Activation,
    ActivationFlag,
    ActivationKind,
    ErrorCode,
    Finish,
    Message,
    ModelFormat,
    ModelReference,
    Offers,
    Reference,
    Route,
    Sampling,
    SessionCommand,
    SessionOrder,
    StageCommand,
    StageOrder,
    StageReport,
    StageState,
    Token,
    Tokens,
)
from maille_protocol.limits import MAX_ARTEFACT_BYTES, MAX_UINT64
from vector_sources.common import SHA256

_MAX_UINT32 = (1 << 32) - 1
_MAX_POSITIONS = 1 << 24
_SHA256 = bytes.fromhex(SHA256)
_REPLAY_AND_SAMPLE = int(ActivationFlag.REPLAY | ActivationFlag.SAMPLE)

PROPOSED_LANGUAGE: list[tuple[str, Message]] = [
    (
        "offers_of_a_slice",
        Offers(ModelReference("tiny", 1, _SHA256, 1, ModelFormat.SLICE), ()),
    ),
    ("stage_unload", StageOrder(StageCommand.UNLOAD, 7, 1, None, 0, 10)),
    ("stage_measure", StageOrder(StageCommand.MEASURE, 7, 1, Reference(_SHA256, 5), 0, 11)),
    (
        "stage_order_largest",
        StageOrder(
            StageCommand.LOAD,
            _MAX_UINT32,
            255,
            Reference(_SHA256, MAX_ARTEFACT_BYTES),
            MAX_UINT64,
            _MAX_UINT32,
        ),
    ),
    ("stage_loading", StageReport(StageState.LOADING, 7, 1, 9)),
    (
        "stage_without_memory",
        StageReport(
            StageState.FAILED,
            7,
            1,
            9,
            ErrorCode.OUT_OF_MEMORY,
            "the slice needs 98 MB, 40 MB are free",
            free_bytes=40_000_000,
        ),
    ),
    ("stage_gone", StageReport(StageState.GONE, 7, 1, 10)),
    (
        "stage_report_largest",
        StageReport(
            StageState.MEASURED,
            _MAX_UINT32,
            255,
            _MAX_UINT32,
            ErrorCode.DUPLICATE_ID,
            "\U0001f9f6" * 2000,
            MAX_UINT64,
            MAX_UINT64,
            MAX_UINT64,
            MAX_UINT64,
            bytes(range(240, 256)),
            _MAX_UINT32,
        ),
    ),
    ("stage_pong", StageReport(StageState.PONG, 0, 0, 65535, free_bytes=1 << 30)),
    (
        "stage_knows_no_such_session",
        StageReport(
            StageState.FAILED, 7, 1, 0, ErrorCode.UNKNOWN_SESSION, "no session 4", session=4
        ),
    ),
    ("route_of_one_node", Route(0, 0, (("a",),))),
    (
        "route_with_8_shadows",
        Route(_MAX_UINT32, _MAX_UINT32, (tuple("n" * 31 + str(number) for number in range(9)),)),
    ),
    ("session_close", SessionOrder(SessionCommand.CLOSE, 7, 2, 3)),
    ("session_replay", SessionOrder(SessionCommand.REPLAY, 7, 3, 3, position=0, until=2)),
    (
        "session_rebuild",
        SessionOrder(
            SessionCommand.REBUILD,
            7,
            3,
            3,
            position=0,
            until=1,
            tokens=b"".join(token.to_bytes(4, "little") for token in range(27)),
        ),
    ),
    ("session_resend", SessionOrder(SessionCommand.RESEND, 7, 3, 3, position=20)),
    (
        "session_open_largest",
        SessionOrder(
            SessionCommand.OPEN,
            _MAX_UINT32,
            _MAX_UINT32,
            _MAX_UINT32,
            _MAX_POSITIONS,
            255,
            _MAX_POSITIONS,
            b"\xff" * 400,
            Sampling(
                100_000_000,
                _MAX_UINT32,
                1_000_000,
                1_000_000,
                100_000_000,
                _MAX_POSITIONS,
                100_000_000,
                -100_000_000,
                MAX_UINT64,
                20,
                ((0, -1_000_000_000), (_MAX_UINT32, 1_000_000_000)),
            ),
            _MAX_POSITIONS,
            b"\xff\xff\xff\xff" * 16,
            _MAX_POSITIONS,
        ),
    ),
    (
        "session_open_greedy",
        SessionOrder(
            SessionCommand.OPEN,
            7,
            1,
            4,
            capacity=64,
            tokens=bytes(4),
            sampling=Sampling(temperature_ppm=0, top_logprobs=1),
            max_tokens=32,
        ),
    ),
    (
        "activation_largest_numbers",
        Activation(
            _MAX_UINT32,
            _MAX_UINT32,
            _MAX_UINT32,
            255,
            _MAX_POSITIONS,
            65535,
            ActivationKind.HIDDEN,
            255,
            255,
            65534,
            65535,
            bytes(range(16)),
        ),
    ),
    (
        "activation_second_part_of_a_replay",
        Activation(
            7,
            3,
            3,
            2,
            32,
            32,
            ActivationKind.HIDDEN,
            int(ActivationFlag.REPLAY),
            2,
            1,
            2,
            bytes(64),
        ),
    ),
    (
        "activation_of_two_tokens",
        Activation(
            *(7, 3, 3, 0, 0, 2, ActivationKind.TOKEN, _REPLAY_AND_SAMPLE, 0, 0, 1),
            bytes.fromhex("01000000ffffffff"),
        ),
    ),
    (
        "tokens_of_several",
        Tokens(7, 3, 20, (Token(5), Token(_MAX_UINT32, -(1 << 40)), Token(0)), Finish.LENGTH),
    ),
    (
        "tokens_with_20_alternatives",
        Tokens(
            *(7, 3, 21),
            (Token(0, -1, tuple((token, -1_000_000 * token) for token in range(20))),),
            Finish.NONE,
        ),
    ),
    (
        "tokens_failed",
        Tokens(
            *(_MAX_UINT32, _MAX_UINT32, _MAX_POSITIONS),
            (),
            Finish.FAILED,
            "4 of 49152 logits are not finite numbers",
        ),
    ),
]
