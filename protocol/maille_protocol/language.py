"""Messages of language models: slices on nodes, activations between them, tokens.

What a stage is told of a session is in `sessions`.

Fields as in `messages`: a body is a CBOR array in the order of the dataclass. What they mean
together: docs/decisions/0006-token-slices.md and the section on token slices of SPEC.md.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from maille_protocol import fields
from maille_protocol.cbor import Plain
from maille_protocol.codes import (
    ActivationKind,
    ErrorCode,
    Finish,
    MessageType,
    StageCommand,
    StageState,
)
from maille_protocol.errors import WireError
from maille_protocol.limits import (
    MAX_ACTIVATION_DATA_BYTES,
    MAX_ARTEFACT_BYTES,
    MAX_POSITIONS,
    MAX_STAGES,
    MAX_UINT32,
    MAX_UINT64,
    SHA256_BYTES,
)
from maille_protocol.reference import Reference

_MAX_SHADOWS = 8
FINGERPRINT_BYTES = 16


@dataclass(frozen=True, slots=True)
class StageOrder:
    """Load a slice as a stage of a pipeline, drop it, measure it, or answer at once (PING)."""

    TYPE: ClassVar = MessageType.STAGE_ORDER
    command: StageCommand
    pipeline: int
    stage: int
    slice: Reference | None
    cache_limit_bytes: int
    """For the key and value caches and histories of all sessions of this stage."""
    nonce: int
    """Echoed in the report."""

    def to_body(self) -> Plain:
        """The body's array."""
        found = self.slice
        return [
            int(self.command),
            self.pipeline,
            self.stage,
            None if found is None else [found.sha256, found.size_bytes],
            self.cache_limit_bytes,
            self.nonce,
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        command, pipeline, stage, found, cache, nonce = fields.array(body, 6, "stage order")
        reference = None
        if found is not None:
            sha256, size = fields.array(found, 2, "slice")
            reference = Reference(
                fields.octets(sha256, SHA256_BYTES, "slice sha256"),
                fields.uint(size, MAX_ARTEFACT_BYTES, "slice size"),
            )
        return cls(
            fields.code(command, StageCommand, "command"),
            fields.uint(pipeline, MAX_UINT32, "pipeline"),
            fields.uint(stage, MAX_STAGES, "stage"),
            reference,
            fields.uint(cache, MAX_UINT64, "cache limit"),
            fields.uint(nonce, MAX_UINT32, "nonce"),
        )


@dataclass(frozen=True, slots=True)
class StageReport:
    """What became of a `StageOrder`, or of a stage without being asked."""

    TYPE: ClassVar = MessageType.STAGE_REPORT
    state: StageState
    pipeline: int
    stage: int
    nonce: int
    code: ErrorCode = ErrorCode.NONE
    text: str = ""
    decode_us: int = 0
    """One token through the slice, 0 if not measured."""
    prefill_us: int = 0
    """One token of a prefill step through the slice."""
    resident_bytes: int = 0
    free_bytes: int = 0
    """Memory that the node could still give to slices and caches."""
    fingerprint: bytes = b""
    """Equal on two nodes whose kernels give the same bits; empty if not measured."""
    session: int = 0
    """The session that this is about; 0: all."""
    length: int = 0
    """Of a session: positions in its cache. With CACHE_GAP and HOLDING."""

    def to_body(self) -> Plain:
        """The body's array."""
        return [
            int(self.state),
            self.pipeline,
            self.stage,
            self.nonce,
            int(self.code),
            self.text,
            self.decode_us,
            self.prefill_us,
            self.resident_bytes,
            self.free_bytes,
            self.fingerprint,
            self.session,
            self.length,
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        (
            state,
            pipeline,
            stage,
            nonce,
            code,
            text,
            decode,
            prefill,
            resident,
            free,
            fingerprint,
            session,
            length,
        ) = fields.array(body, 13, "stage report")
        return cls(
            fields.code(state, StageState, "state"),
            fields.uint(pipeline, MAX_UINT32, "pipeline"),
            fields.uint(stage, MAX_STAGES, "stage"),
            fields.uint(nonce, MAX_UINT32, "nonce"),
            fields.code(code, ErrorCode, "code"),
            fields.text(text, "text"),
            fields.uint(decode, MAX_UINT64, "decode time"),
            fields.uint(prefill, MAX_UINT64, "prefill time"),
            fields.uint(resident, MAX_UINT64, "resident size"),
            fields.uint(free, MAX_UINT64, "free memory"),
            fields.octets_up_to(fingerprint, FINGERPRINT_BYTES, "fingerprint"),
            fields.uint(session, MAX_UINT32, "session"),
            fields.uint(length, MAX_POSITIONS, "length"),
        )


@dataclass(frozen=True, slots=True)
class Route:
    """Who holds which stage. A newer layout replaces an older one."""

    TYPE: ClassVar = MessageType.ROUTE
    pipeline: int
    layout: int
    stages: tuple[tuple[str, ...], ...]
    """For each stage its nodes: the primary first, then its shadows."""

    def to_body(self) -> Plain:
        """The body's array."""
        return [self.pipeline, self.layout, [list(nodes) for nodes in self.stages]]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        pipeline, layout, stages = fields.array(body, 3, "route")

        def nodes(value: object) -> tuple[str, ...]:
            found = fields.items(value, lambda item: fields.identifier(item, "node"), "stage")
            if not 1 <= len(found) <= _MAX_SHADOWS + 1:
                raise WireError(f"stage: {len(found)} nodes, 1 to {_MAX_SHADOWS + 1} are allowed")
            return found

        parsed = fields.items(stages, nodes, "stages")
        if not 1 <= len(parsed) <= MAX_STAGES:
            raise WireError(f"route: {len(parsed)} stages, 1 to {MAX_STAGES} are allowed")
        return cls(
            fields.uint(pipeline, MAX_UINT32, "pipeline"),
            fields.uint(layout, MAX_UINT32, "layout"),
            parsed,
        )


@dataclass(frozen=True, slots=True)
class Activation:
    """What goes from one stage to the next, or one part of it."""

    TYPE: ClassVar = MessageType.ACTIVATION
    pipeline: int
    layout: int
    session: int
    stage: int
    """The receiver's."""
    position: int
    count: int
    kind: ActivationKind
    flags: int
    until: int
    part: int
    parts: int
    data: bytes

    def to_body(self) -> Plain:
        """The body's array."""
        return [
            self.pipeline,
            self.layout,
            self.session,
            self.stage,
            self.position,
            self.count,
            int(self.kind),
            self.flags,
            self.until,
            self.part,
            self.parts,
            self.data,
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        (
            pipeline,
            layout,
            session,
            stage,
            position,
            count,
            kind,
            flags,
            until,
            part,
            parts,
            data,
        ) = fields.array(body, 12, "activation")
        total = fields.positive(parts, 65535, "parts")
        return cls(
            fields.uint(pipeline, MAX_UINT32, "pipeline"),
            fields.uint(layout, MAX_UINT32, "layout"),
            fields.uint(session, MAX_UINT32, "session"),
            fields.uint(stage, MAX_STAGES, "stage"),
            fields.uint(position, MAX_POSITIONS, "position"),
            fields.positive(count, 65535, "count"),
            fields.code(kind, ActivationKind, "kind"),
            fields.uint(flags, 255, "flags"),
            fields.uint(until, MAX_STAGES, "until"),
            fields.uint(part, total - 1, "part"),
            total,
            fields.octets_up_to(data, MAX_ACTIVATION_DATA_BYTES, "activation data"),
        )


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer. Log probabilities are in millionths, natural logarithm."""

    token: int
    logprob_ppm: int = 0
    top: tuple[tuple[int, int], ...] = ()
    """(token, log probability) of the likeliest, if asked for."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of an answer, from the last stage."""

    TYPE: ClassVar = MessageType.TOKENS
    pipeline: int
    session: int
    position: int
    """Of the first of `tokens`."""
    tokens: tuple[Token, ...]
    finish: Finish
    text: str = ""
    """Why it failed, if it did."""

    def to_body(self) -> Plain:
        """The body's array."""
        return [
            self.pipeline,
            self.session,
            self.position,
            [
                [found.token, found.logprob_ppm, [[token, value] for token, value in found.top]]
                for found in self.tokens
            ],
            int(self.finish),
            self.text,
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        pipeline, session, position, tokens, finish, text = fields.array(body, 6, "tokens")

        def pair(value: object) -> tuple[int, int]:
            token, logprob = fields.array(value, 2, "log probability")
            return fields.uint(token, MAX_UINT32, "token"), fields.integer(
                logprob, 1 << 40, "log probability"
            )

        def token(value: object) -> Token:
            number, logprob, top = fields.array(value, 3, "token")
            return Token(
                fields.uint(number, MAX_UINT32, "token"),
                fields.integer(logprob, 1 << 40, "log probability"),
                fields.items(top, pair, "top"),
            )

        return cls(
            fields.uint(pipeline, MAX_UINT32, "pipeline"),
            fields.uint(session, MAX_UINT32, "session"),
            fields.uint(position, MAX_POSITIONS, "position"),
            fields.items(tokens, token, "tokens"),
            fields.code(finish, Finish, "finish"),
            fields.text(text, "text"),
        )
