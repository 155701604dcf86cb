"""Messages of language models: slices on nodes, sessions on stages, activations between them.

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
    SessionCommand,
    StageCommand,
    StageState,
)
from maille_protocol.errors import WireError
from maille_protocol.limits import (
    MAX_ACTIVATION_DATA_BYTES,
    MAX_ARTEFACT_BYTES,
    MAX_PUBLISH_BYTES,
    MAX_UINT64,
    SHA256_BYTES,
)
from maille_protocol.reference import Reference

_MAX_UINT32 = (1 << 32) - 1
_MAX_STAGES = 255
_MAX_SHADOWS = 8
_MAX_POSITIONS = 1 << 24
_MILLION = 1_000_000
FINGERPRINT_BYTES = 16


def _octets_up_to(value: object, maximum: int, name: str) -> bytes:
    if type(value) is not bytes or len(value) > maximum:
        raise WireError(f"{name}: expected at most {maximum} bytes, got {fields.describe(value)}")
    return value


def _positive(value: object, maximum: int, name: str) -> int:
    if type(value) is not int or not 1 <= value <= maximum:
        raise WireError(f"{name}: expected 1 to {maximum}, got {fields.describe(value)}")
    return value


def _integer(value: object, bound: int, name: str) -> int:
    if type(value) is not int or not -bound <= value <= bound:
        raise WireError(f"{name}: expected -{bound} to {bound}, got {fields.describe(value)}")
    return value


def _uint32s(value: object, name: str) -> bytes:
    data = _octets_up_to(value, MAX_PUBLISH_BYTES, name)
    if len(data) % 4:
        raise WireError(f"{name}: {len(data)} bytes are no list of 32-bit numbers")
    return data


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
            fields.uint(pipeline, _MAX_UINT32, "pipeline"),
            fields.uint(stage, _MAX_STAGES, "stage"),
            reference,
            fields.uint(cache, MAX_UINT64, "cache limit"),
            fields.uint(nonce, _MAX_UINT32, "nonce"),
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
    """The session that a failure concerns; 0: all."""

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
        ) = fields.array(body, 12, "stage report")
        return cls(
            fields.code(state, StageState, "state"),
            fields.uint(pipeline, _MAX_UINT32, "pipeline"),
            fields.uint(stage, _MAX_STAGES, "stage"),
            fields.uint(nonce, _MAX_UINT32, "nonce"),
            fields.code(code, ErrorCode, "code"),
            fields.text(text, "text"),
            fields.uint(decode, MAX_UINT64, "decode time"),
            fields.uint(prefill, MAX_UINT64, "prefill time"),
            fields.uint(resident, MAX_UINT64, "resident size"),
            fields.uint(free, MAX_UINT64, "free memory"),
            _octets_up_to(fingerprint, FINGERPRINT_BYTES, "fingerprint"),
            fields.uint(session, _MAX_UINT32, "session"),
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
        if not 1 <= len(parsed) <= _MAX_STAGES:
            raise WireError(f"route: {len(parsed)} stages, 1 to {_MAX_STAGES} are allowed")
        return cls(
            fields.uint(pipeline, _MAX_UINT32, "pipeline"),
            fields.uint(layout, _MAX_UINT32, "layout"),
            parsed,
        )


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the last stage chooses tokens. Fractions are in millionths, so that no float is sent."""

    temperature_ppm: int = _MILLION
    """0 is greedy."""
    top_k: int = 0
    """0: all tokens."""
    top_p_ppm: int = _MILLION
    min_p_ppm: int = 0
    repetition_ppm: int = _MILLION
    """1 million: no penalty."""
    repetition_window: int = 64
    presence_ppm: int = 0
    frequency_ppm: int = 0
    seed: int = 0
    top_logprobs: int = 0
    """How many alternatives are told with each token; the token's own comes with 1 or more."""
    logit_bias: tuple[tuple[int, int], ...] = ()
    """(token, bias in millionths)."""

    def to_body(self) -> Plain:
        """The field's array."""
        return [
            self.temperature_ppm,
            self.top_k,
            self.top_p_ppm,
            self.min_p_ppm,
            self.repetition_ppm,
            self.repetition_window,
            self.presence_ppm,
            self.frequency_ppm,
            self.seed,
            self.top_logprobs,
            [[token, bias] for token, bias in self.logit_bias],
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the field's array; WireError."""
        (
            temperature,
            top_k,
            top_p,
            min_p,
            repetition,
            window,
            presence,
            frequency,
            seed,
            logprobs,
            biases,
        ) = fields.array(body, 11, "sampling")

        def bias(value: object) -> tuple[int, int]:
            token, amount = fields.array(value, 2, "logit bias")
            return fields.uint(token, _MAX_UINT32, "token"), _integer(
                amount, 1000 * _MILLION, "bias"
            )

        return cls(
            fields.uint(temperature, 100 * _MILLION, "temperature"),
            fields.uint(top_k, _MAX_UINT32, "top k"),
            fields.uint(top_p, _MILLION, "top p"),
            fields.uint(min_p, _MILLION, "min p"),
            fields.uint(repetition, 100 * _MILLION, "repetition penalty"),
            fields.uint(window, _MAX_POSITIONS, "repetition window"),
            _integer(presence, 100 * _MILLION, "presence penalty"),
            _integer(frequency, 100 * _MILLION, "frequency penalty"),
            fields.uint(seed, MAX_UINT64, "seed"),
            fields.uint(logprobs, 20, "log probabilities"),
            fields.items(biases, bias, "logit bias"),
        )


@dataclass(frozen=True, slots=True)
class SessionOrder:
    """Open, repair or close one generation on one stage."""

    TYPE: ClassVar = MessageType.SESSION_ORDER
    command: SessionCommand
    pipeline: int
    layout: int
    session: int
    position: int = 0
    """OPEN, REBUILD, INJECT: of the first of `tokens`. REPLAY, RESEND: from where on."""
    until: int = 0
    """REPLAY, REBUILD: the last stage to rebuild."""
    capacity: int = 0
    """OPEN: positions that prompt and answer may take together."""
    tokens: bytes = b""
    """uint32 little-endian. OPEN: to stage 0 the prompt, to the last stage all known tokens."""
    sampling: Sampling | None = None
    """OPEN to the last stage."""
    max_tokens: int = 0
    """OPEN to the last stage: ends with LENGTH after so many tokens beyond `tokens`."""
    end_tokens: bytes = b""
    """OPEN to the last stage, uint32 little-endian: any of them ends the answer."""
    prompt_length: int = 0
    """OPEN to the last stage: where the answer begins, also when `tokens` holds some of it. The
    penalties for presence and frequency look at nothing before."""

    def to_body(self) -> Plain:
        """The body's array."""
        return [
            int(self.command),
            self.pipeline,
            self.layout,
            self.session,
            self.position,
            self.until,
            self.capacity,
            self.tokens,
            None if self.sampling is None else self.sampling.to_body(),
            self.max_tokens,
            self.end_tokens,
            self.prompt_length,
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        (
            command,
            pipeline,
            layout,
            session,
            position,
            until,
            capacity,
            tokens,
            sampling,
            max_tokens,
            end_tokens,
            prompt_length,
        ) = fields.array(body, 12, "session order")
        return cls(
            fields.code(command, SessionCommand, "command"),
            fields.uint(pipeline, _MAX_UINT32, "pipeline"),
            fields.uint(layout, _MAX_UINT32, "layout"),
            fields.uint(session, _MAX_UINT32, "session"),
            fields.uint(position, _MAX_POSITIONS, "position"),
            fields.uint(until, _MAX_STAGES, "until"),
            fields.uint(capacity, _MAX_POSITIONS, "capacity"),
            _uint32s(tokens, "tokens"),
            None if sampling is None else Sampling.from_body(sampling),
            fields.uint(max_tokens, _MAX_POSITIONS, "most tokens"),
            _uint32s(end_tokens, "end tokens"),
            fields.uint(prompt_length, _MAX_POSITIONS, "prompt length"),
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
        total = _positive(parts, 65535, "parts")
        return cls(
            fields.uint(pipeline, _MAX_UINT32, "pipeline"),
            fields.uint(layout, _MAX_UINT32, "layout"),
            fields.uint(session, _MAX_UINT32, "session"),
            fields.uint(stage, _MAX_STAGES, "stage"),
            fields.uint(position, _MAX_POSITIONS, "position"),
            _positive(count, 65535, "count"),
            fields.code(kind, ActivationKind, "kind"),
            fields.uint(flags, 255, "flags"),
            fields.uint(until, _MAX_STAGES, "until"),
            fields.uint(part, total - 1, "part"),
            total,
            _octets_up_to(data, MAX_ACTIVATION_DATA_BYTES, "activation data"),
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
            return fields.uint(token, _MAX_UINT32, "token"), _integer(
                logprob, 1 << 40, "log probability"
            )

        def token(value: object) -> Token:
            number, logprob, top = fields.array(value, 3, "token")
            return Token(
                fields.uint(number, _MAX_UINT32, "token"),
                _integer(logprob, 1 << 40, "log probability"),
                fields.items(top, pair, "top"),
            )

        return cls(
            fields.uint(pipeline, _MAX_UINT32, "pipeline"),
            fields.uint(session, _MAX_UINT32, "session"),
            fields.uint(position, _MAX_POSITIONS, "position"),
            fields.items(tokens, token, "tokens"),
            fields.code(finish, Finish, "finish"),
            fields.text(text, "text"),
        )
