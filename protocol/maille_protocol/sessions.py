"""What a stage is told of a session: to open, repair, keep or close it, and how to choose tokens.

Fields as in `messages`. What the commands mean: the section on token slices of SPEC.md.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from maille_protocol import fields
from maille_protocol.cbor import Plain
from maille_protocol.codes import MessageType, SessionCommand
from maille_protocol.errors import WireError
from maille_protocol.limits import (
    MAX_ARTEFACT_BYTES,
    MAX_POSITIONS,
    MAX_SCHEMA_BYTES,
    MAX_STAGES,
    MAX_UINT32,
    MAX_UINT64,
    SHA256_BYTES,
)
from maille_protocol.reference import Reference

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Grammar:
    """An answer that is JSON."""

    schema: bytes
    """JSON schema, UTF-8; empty: any object."""
    vocabulary: Reference
    """The model's tokens as an artefact, so that a grammar can be walked over their bytes."""

    def to_body(self) -> Plain:
        """The field's array."""
        return [self.schema, [self.vocabulary.sha256, self.vocabulary.size_bytes]]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the field's array; WireError."""
        schema, vocabulary = fields.array(body, 2, "grammar")
        sha256, size = fields.array(vocabulary, 2, "vocabulary")
        return cls(
            fields.octets_up_to(schema, MAX_SCHEMA_BYTES, "schema"),
            Reference(
                fields.octets(sha256, SHA256_BYTES, "vocabulary sha256"),
                fields.uint(size, MAX_ARTEFACT_BYTES, "vocabulary size"),
            ),
        )


def _one(value: object) -> Grammar | None:
    """A grammar, or none: as an array, which a reader tells apart at once."""
    found = fields.items(value, Grammar.from_body, "grammar")
    if len(found) > 1:
        raise WireError(f"grammar: {len(found)} of them, 1 is possible")
    return found[0] if found else None


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
    grammar: Grammar | None = None
    """What the answer follows; None: anything."""

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
            [] if self.grammar is None else [self.grammar.to_body()],
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
            grammar,
        ) = fields.array(body, 12, "sampling")

        def bias(value: object) -> tuple[int, int]:
            token, amount = fields.array(value, 2, "logit bias")
            return fields.uint(token, MAX_UINT32, "token"), fields.integer(
                amount, 1000 * _MILLION, "bias"
            )

        return cls(
            fields.uint(temperature, 100 * _MILLION, "temperature"),
            fields.uint(top_k, MAX_UINT32, "top k"),
            fields.uint(top_p, _MILLION, "top p"),
            fields.uint(min_p, _MILLION, "min p"),
            fields.uint(repetition, 100 * _MILLION, "repetition penalty"),
            fields.uint(window, MAX_POSITIONS, "repetition window"),
            fields.integer(presence, 100 * _MILLION, "presence penalty"),
            fields.integer(frequency, 100 * _MILLION, "frequency penalty"),
            fields.uint(seed, MAX_UINT64, "seed"),
            fields.uint(logprobs, 20, "log probabilities"),
            fields.items(biases, bias, "logit bias"),
            _one(grammar),
        )


@dataclass(frozen=True, slots=True)
class SessionOrder:
    """Open, repair or close one generation on one stage."""

    TYPE: ClassVar = MessageType.SESSION_ORDER
    command: SessionCommand
    pipeline: int
    layout: int
    session: int
    stage: int = 0
    """The receiver's. CLOSE is for every stage of the node."""
    position: int = 0
    """OPEN, REBUILD, INJECT: of the first of `tokens`. REPLAY, RESEND: from where on. KEEP: how
    many positions stay. CHECK: how many are waited for."""
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
    source: int = 0
    """OPEN: a session that is kept on this stage and begins alike; 0: none."""
    shared: int = 0
    """OPEN: how many positions are taken from `source`."""

    def to_body(self) -> Plain:
        """The body's array."""
        return [
            int(self.command),
            self.pipeline,
            self.layout,
            self.session,
            self.stage,
            self.position,
            self.until,
            self.capacity,
            self.tokens,
            None if self.sampling is None else self.sampling.to_body(),
            self.max_tokens,
            self.end_tokens,
            self.prompt_length,
            self.source,
            self.shared,
        ]

    @classmethod
    def from_body(cls, body: object) -> Self:
        """Parse the body's array; WireError."""
        (
            command,
            pipeline,
            layout,
            session,
            stage,
            position,
            until,
            capacity,
            tokens,
            sampling,
            max_tokens,
            end_tokens,
            prompt_length,
            source,
            shared,
        ) = fields.array(body, 15, "session order")
        return cls(
            fields.code(command, SessionCommand, "command"),
            fields.uint(pipeline, MAX_UINT32, "pipeline"),
            fields.uint(layout, MAX_UINT32, "layout"),
            fields.uint(session, MAX_UINT32, "session"),
            fields.uint(stage, MAX_STAGES, "stage"),
            fields.uint(position, MAX_POSITIONS, "position"),
            fields.uint(until, MAX_STAGES, "until"),
            fields.uint(capacity, MAX_POSITIONS, "capacity"),
            fields.uint32s(tokens, "tokens"),
            None if sampling is None else Sampling.from_body(sampling),
            fields.uint(max_tokens, MAX_POSITIONS, "most tokens"),
            fields.uint32s(end_tokens, "end tokens"),
            fields.uint(prompt_length, MAX_POSITIONS, "prompt length"),
            fields.uint(source, MAX_UINT32, "source"),
            fields.uint(shared, MAX_POSITIONS, "shared"),
        )
