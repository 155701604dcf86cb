"""What can happen to a node's stages (events) and what they then want done (actions)."""

from dataclasses import dataclass
from typing import TypeAlias

from maille_node.language.settings import SamplingSettings
from maille_protocol import Envelope, ErrorCode, Grammar, Reference, StageReport, Token, Tokens

# --- events ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heard:
    """A `StageOrder`, `Route`, `SessionOrder` or `Activation` came in on its topic."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class SliceFacts:
    """What a loaded slice takes and gives, and how fast it was here.

    Attributes:
        with_embedding: takes tokens: it is stage 0.
        with_head: gives logits: it is the last stage.
        hidden_size: values of one position between stages.
        vocabulary_size: tokens are below this.
        context_length: the most positions of a session.
        cache_bytes: keys and values of one position.
        decode_us: one token by itself.
        prefill_us: one token of a prefill step.
        resident_bytes: memory that the slice took.
        fingerprint: 16 bytes, equal where kernels give the same bits.
    """

    with_embedding: bool
    with_head: bool
    hidden_size: int
    vocabulary_size: int
    context_length: int
    cache_bytes: int
    decode_us: int
    prefill_us: int
    resident_bytes: int
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class SliceReady:
    """A slice wanted by `LoadSlice` is in memory and measured; it stays until `DropSlice`."""

    sha256: bytes
    facts: SliceFacts


@dataclass(frozen=True, slots=True)
class SliceFailed:
    """A slice wanted by `LoadSlice` cannot be had."""

    sha256: bytes
    code: ErrorCode
    text: str


@dataclass(frozen=True, slots=True)
class VocabularyReady:
    """A vocabulary wanted by `LoadVocabulary` is here; it stays until `DropVocabulary`."""

    sha256: bytes


@dataclass(frozen=True, slots=True)
class VocabularyFailed:
    """A vocabulary wanted by `LoadVocabulary` cannot be had, or this node has no use for it."""

    sha256: bytes
    code: ErrorCode
    text: str


@dataclass(frozen=True, slots=True)
class Computed:
    """A `Compute` has ended; exactly one of `output`, `sampled` and `code` says how.

    Attributes:
        job: of the `Compute`.
        output: hidden values, float32 little-endian, one row a position; empty for the last stage.
        sampled: the token chosen, if one was to be.
        code: why there is none of both; the cache is as it was before the job but for the cut.
        text: for a person.
    """

    job: int
    output: bytes = b""
    sampled: Token | None = None
    code: ErrorCode = ErrorCode.NONE
    text: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """The time last asked for with `WakeAt` has come."""


StageEvent: TypeAlias = (
    Heard | SliceReady | SliceFailed | VocabularyReady | VocabularyFailed | Computed | Tick
)

# --- actions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the coordinator."""

    message: StageReport | Tokens


@dataclass(frozen=True, slots=True)
class SendActivation:
    """Publish a packed `Activation` to another node."""

    node: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class LoadSlice:
    """Fetch, load and measure a slice; answered by `SliceReady` or `SliceFailed`."""

    reference: Reference


@dataclass(frozen=True, slots=True)
class DropSlice:
    """No stage needs this slice, loaded or still loading; a late answer is not wanted."""

    sha256: bytes


@dataclass(frozen=True, slots=True)
class LoadVocabulary:
    """Fetch a vocabulary; answered by `VocabularyReady` or `VocabularyFailed`."""

    reference: Reference


@dataclass(frozen=True, slots=True)
class DropVocabulary:
    """No new session needs this vocabulary."""

    sha256: bytes


@dataclass(frozen=True, slots=True)
class SampleAt:
    """Choose the token that follows the last position of a step.

    Attributes:
        settings: of the session.
        position: of the new token.
        tokens: all before it where the settings look at them, else nothing.
        prompt_length: how many of `tokens` are the prompt.
        grammar: what the answer follows, None for anything.
    """

    settings: SamplingSettings
    position: int
    tokens: tuple[int, ...]
    prompt_length: int
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class Compute:
    """Cut the cache to `position`, then put a step through the slice; answered by `Computed`.

    Attributes:
        job: number of this one.
        sha256: of the slice.
        cache: number of the cache; the first job of a number makes it.
        capacity: positions of the cache.
        position: of the step's first row.
        count: rows.
        values: tokens (uint32) or hidden values (float32), little-endian.
        sample: with a head: the token wanted; None for none.
    """

    job: int
    sha256: bytes
    cache: int
    capacity: int
    position: int
    count: int
    values: bytes | memoryview
    sample: SampleAt | None


@dataclass(frozen=True, slots=True)
class ShareCache:
    """Begin a cache with a copy of another one's first positions.

    The next `Compute` on it fails with CACHE_GAP where that could not be done.

    Attributes:
        sha256: of the slice of both.
        source: number of the cache that has them. It may be freed right after.
        cache: number of the new one.
        capacity: positions of the new one.
        count: positions to copy.
    """

    sha256: bytes
    source: int
    cache: int
    capacity: int
    count: int


@dataclass(frozen=True, slots=True)
class FreeCache:
    """A cache is not needed any more; a job that still runs on it ends by itself."""

    cache: int


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send `Tick` at this time; replaces the time asked for before."""

    at_ms: float


@dataclass(frozen=True, slots=True)
class Note:
    """A line for this program's log; `level` as in Python's logging."""

    level: int
    text: str


StageAction: TypeAlias = (
    Say
    | SendActivation
    | LoadSlice
    | DropSlice
    | LoadVocabulary
    | DropVocabulary
    | Compute
    | ShareCache
    | FreeCache
    | WakeAt
    | Note
)
