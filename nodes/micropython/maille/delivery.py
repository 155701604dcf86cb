"""How a model comes to a board: DEPLOY, WANT, chunks, READY or FAILED (section 13)."""

from micropython import const

from . import codes
from .voice import BEGIN, EVICT, FINISH, STORE, Voice

MAX_MODELS = const(1)
_WANT_AGAIN_MS = const(1000)
_MAX_WANT_AGAIN_MS = const(10000)


class Held:
    """A model that this board can run."""

    def __init__(
        self, name: str, sha256: bytes, size_bytes: int, run_us: int, input_values: int
    ) -> None:
        self.name = name
        self.sha256 = sha256
        self.size_bytes = size_bytes
        self.run_us = run_us
        self.input_values = input_values
        """Numbers in its input; 0 if a sensor cannot feed it."""


class Delivery:
    """The models held and the one on its way. No I/O, no clock.

    Args:
        voice: where actions go.
        max_model_bytes: the largest artefact that can be stored.
        max_chunk_bytes: the largest part that one message can carry.
        in_use: whether a model (by SHA-256) must not be replaced.
    """

    def __init__(self, voice: Voice, max_model_bytes: int, max_chunk_bytes: int, in_use) -> None:
        self.models: list = []
        self.sha256s: list = []
        """Of `models`; the same list for ever, so that others may look into it."""
        self._voice = voice
        self._max_model_bytes = max_model_bytes
        self._max_chunk_bytes = min(codes.MAX_CHUNK_BYTES, max_chunk_bytes)
        self._in_use = in_use
        self._coming: list | None = None
        self._nonce = 0
        self._offset = 0
        self._storing = False
        self._delay_ms = 0
        self.want_at_ms = 0
        """When WANT is to be sent again; 0: not at all."""
        self.complete = False
        """All bytes are here: `finish` can be wanted as soon as nothing runs."""

    def hold(self, models: list) -> None:
        """From now on these models are held."""
        self.models = models
        self.sha256s[:] = [model.sha256 for model in models]

    def held(self, sha256: bytes):
        """The model of that SHA-256, if it is here."""
        for model in self.models:
            if model.sha256 == sha256:
                return model
        return None

    def _report(
        self, state: int, sha256, nonce: int, code: int = 0, text: str = "", run_us: int = 0
    ) -> None:
        body = (state, sha256, nonce, 0, 0, code, text[:200], run_us)
        self._voice.publish(codes.MODEL_REPORT, body)

    def calibrated(self, nonce: int) -> None:
        """Say that the kernels were measured."""
        self._report(codes.CALIBRATED, None, nonce)

    def deploy(self, model: list, nonce: int, now_ms: int) -> None:
        """Answer an order to fetch a model, and fetch it if it can be taken."""
        _, _, sha256, size_bytes, model_format = model
        held = self.held(sha256)
        if held is not None:
            self._report(codes.READY, sha256, nonce, run_us=held.run_us)
        elif model_format != codes.FORMAT_TINY:
            text = "this board runs tiny models"
            self._report(codes.MODEL_FAILED, sha256, nonce, codes.UNSUPPORTED_FORMAT, text)
        elif size_bytes > self._max_model_bytes:
            text = "{} bytes, this board takes {}".format(size_bytes, self._max_model_bytes)
            self._report(codes.MODEL_FAILED, sha256, nonce, codes.MODEL_TOO_LARGE, text)
        elif self._coming is not None and self._coming[2] == sha256:
            self._nonce = nonce
            if not self.complete and not self._storing:
                self._want(now_ms)
        elif self.complete:
            # The one before it is being tested; the coordinator sends the order again.
            return
        elif len(self.models) >= MAX_MODELS and all([self._in_use(m.sha256) for m in self.models]):
            text = "a sense needs the model that would be replaced; stop it first"
            self._report(codes.MODEL_FAILED, sha256, nonce, codes.NO_SPACE, text)
        else:
            self._coming = model
            self._nonce = nonce
            self._storing = True
            self.want_at_ms = 0
            self._voice.do(BEGIN, model)

    def stored(self, offset: int, now_ms: int) -> None:
        """So many bytes of the model on its way are on the flash."""
        if self._coming is None:
            return
        self._storing = False
        self._offset = offset
        self._delay_ms = _WANT_AGAIN_MS
        if offset >= self._coming[3]:
            self.complete = True
            self.want_at_ms = 0
        else:
            self._want(now_ms)

    def _want(self, now_ms: int) -> None:
        model = self._coming
        length = min(self._max_chunk_bytes, model[3] - self._offset)
        body = (codes.WANT, model[2], self._nonce, self._offset, length, 0, "", 0)
        self._voice.publish(codes.MODEL_REPORT, body)
        self.want_at_ms = now_ms + self._delay_ms

    def tick(self, now_ms: int) -> None:
        """Ask again for what did not come."""
        if self.want_at_ms and now_ms >= self.want_at_ms:
            self._delay_ms = min(2 * self._delay_ms, _MAX_WANT_AGAIN_MS)
            self._want(now_ms)

    def chunk(self, sha256: bytes, offset: int, data: bytes) -> None:
        """Take the part that is wanted; any other is dropped."""
        coming = self._coming
        if coming is None or self._storing or self.complete or coming[2] != sha256:
            return
        if offset != self._offset or not data or offset + len(data) > coming[3]:
            return
        self._storing = True
        self.want_at_ms = 0
        self._voice.do(STORE, data)

    def finish(self) -> None:
        """Want the model that is here verified, tested and put in place."""
        self._voice.do(FINISH, self._coming)

    def finished(self, models: list, run_us: int) -> None:
        """The model that came is in place."""
        sha256, nonce = self._coming[2], self._nonce
        self._end()
        self.hold(models)
        self._report(codes.READY, sha256, nonce, run_us=run_us)

    def failed(self, code: int, text: str) -> None:
        """The model that was on its way cannot be had; those held before still are."""
        if self._coming is not None:
            sha256, nonce = self._coming[2], self._nonce
            self._end()
            self._report(codes.MODEL_FAILED, sha256, nonce, code, text)

    def _end(self) -> None:
        self._coming = None
        self._storing = self.complete = False
        self.want_at_ms = 0

    def evict(self, sha256: bytes, nonce: int) -> bool:
        """Drop a model, held or on its way; whether one was held."""
        if self._coming is not None and self._coming[2] == sha256:
            if self.complete:
                # It is being tested; the coordinator sends the order again.
                return False
            self._end()
            self._voice.do(EVICT, sha256)
        held = self.held(sha256) is not None
        if held:
            self.hold([model for model in self.models if model.sha256 != sha256])
            self._voice.do(EVICT, sha256)
        self._report(codes.GONE, sha256, nonce)
        return held
