"""A language model that is arithmetic: its tokens show what was missed, doubled or mixed up.

Each layer keeps a chain of hashes over the positions, so a token depends on every token before it,
on seed and position, and not on how the layers are cut or in which steps they were computed. A
position that a cache lacks, has twice, or has of another session, changes every token after it.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from maille_coordinator.language.events import ModelKey
from maille_coordinator.language.records import SessionStart
from maille_coordinator.placement import ModelShape
from maille_node.language import stage_events as stage
from maille_protocol import ErrorCode, Reference, Token

Chain = tuple[int, ...]
"""What each layer of a slice has after a position."""

Slice = tuple[int, int, bool]
"""First and last layer, and whether embedding and head are in it where they belong."""


def mix(*parts: int) -> int:
    """A number below 2**32 that depends on all parts and their order."""
    return zlib.crc32(b"".join(part.to_bytes(8, "little") for part in parts))


def layers(first: int, last: int, before: Chain, value: int) -> Chain:
    """What each layer has after one more position: its chain so far and what came in."""
    chain = []
    for place, layer in enumerate(range(first, last + 1)):
        value = mix(layer, before[place] if before else 0, value)
        chain.append(value)
    return tuple(chain)


@dataclass(frozen=True)
class ArithmeticModel:
    """Its sizes; times are for a node of speed 1."""

    name: str = "tiny"
    layer_count: int = 6
    vocabulary: int = 997
    context_tokens: int = 256
    layer_bytes: int = 1_000_000
    end_bytes: int = 500_000
    """Of the embedding, and of the head."""
    cache_bytes: int = 1000
    """Keys and values of one position in one layer."""
    layer_us: int = 1000
    """Of one token in one layer; a position of a prompt takes a quarter."""
    hidden: int = 2
    """Values of one position between two slices: all but the first two are 0."""

    @property
    def key(self) -> ModelKey:
        """Name and version."""
        return self.name, 1

    @cached_property
    def shape(self) -> ModelShape:
        """As the planner wants it."""
        weights = (self.layer_bytes,) * self.layer_count
        return ModelShape(weights, self.end_bytes, self.end_bytes, self.cache_bytes, self.hidden)

    @cached_property
    def slices(self) -> dict[bytes, Slice]:
        """All that it can be cut into, by SHA-256."""
        return {
            self.reference(first, last, with_ends=ends).sha256: (first, last, ends)
            for first in range(self.layer_count)
            for last in range(first, self.layer_count)
            for ends in (False, True)
        }

    def reference(self, first: int, last: int, *, with_ends: bool) -> Reference:
        """The name of a slice."""
        name = hashlib.sha256(f"{self.name} {first} {last} {with_ends}".encode()).digest()
        return Reference(name, self.layer_bytes * (last - first + 1))

    def facts(self, sha256: bytes, layer_us: float) -> stage.SliceFacts:
        """What a node says of a slice that it has loaded and measured."""
        first, last, ends = self.slices[sha256]
        count = last - first + 1
        return stage.SliceFacts(
            with_embedding=ends and first == 0,
            with_head=ends and last == self.layer_count - 1,
            hidden_size=self.hidden,
            vocabulary_size=self.vocabulary,
            context_length=self.context_tokens,
            cache_bytes=count * self.cache_bytes,
            decode_us=max(1, round(count * layer_us)),
            prefill_us=max(1, round(count * layer_us / 4)),
            resident_bytes=count * self.layer_bytes,
            fingerprint=b"same kernels 123",
        )

    def step(self, job: stage.Compute, cache: list[Chain]) -> stage.Computed:
        """Cut a cache back, put a step through a slice, choose a token if one is wanted."""
        first, last, _ = self.slices[job.sha256]
        if job.position > len(cache):
            text = f"{len(cache)} positions are held, the step begins at {job.position}"
            return stage.Computed(job.job, code=ErrorCode.CACHE_GAP, text=text)
        del cache[job.position :]
        before = cache[-1] if cache else ()
        for value in self._values(job, first):
            before = layers(first, last, before, value)
            cache.append(before)
        if last < self.layer_count - 1:
            ends = [chain[-1] for chain in cache[job.position :]]
            out = np.zeros((job.count, self.hidden), np.float32)
            out[:, :2] = [[end >> 16, end & 0xFFFF] for end in ends]
            return stage.Computed(job.job, output=out.tobytes())
        sample = job.sample
        if sample is None:
            return stage.Computed(job.job)
        back = (*sample.tokens, sample.prompt_length) if sample.tokens else ()
        token = self._chosen(before[-1], sample.settings.seed, sample.position, back)
        return stage.Computed(job.job, sampled=Token(token))

    def answer(self, start: SessionStart) -> tuple[int, ...]:
        """What an undisturbed run gives."""
        known: list[int] = []
        chain: Chain = ()
        prompt, sampling = start.prompt, start.sampling
        looks_back = sampling.presence_ppm != 0
        for position in range(start.capacity):
            if position < len(prompt):
                known.append(prompt[position])
            else:
                back = (*known, len(prompt)) if looks_back else ()
                known.append(self._chosen(chain[-1], sampling.seed, position, back))
                if known[-1] in start.end_tokens:
                    break
            chain = layers(0, self.layer_count - 1, chain, known[-1])
        return tuple(known[len(prompt) :])

    def _values(self, job: stage.Compute, first: int) -> Sequence[int]:
        data = bytes(job.values)
        if first == 0:
            tokens: list[int] = np.frombuffer(data, "<u4").tolist()
            return tokens
        rows = np.frombuffer(data, np.float32).reshape(job.count, self.hidden)[:, :2].tolist()
        return [int(high) << 16 | int(low) for high, low in rows]

    def _chosen(self, value: int, seed: int, position: int, tokens: Chain) -> int:
        """The token that follows."""
        return mix(value, seed, position, *tokens) % self.vocabulary
