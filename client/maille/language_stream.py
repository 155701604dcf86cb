"""One answer of a language model, read to its end over connections that may be lost.

The answer has an id that is chosen here, before anything is sent: whatever is lost, the coordinator
can be asked for the rest by it, and a request that is sent twice is answered once.
"""

import asyncio
import contextlib
import json
import random
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import cast

from maille.errors import (
    GenerationFailed,
    InputError,
    MailleError,
    MeshBusy,
    MeshUnavailable,
    UnknownResponse,
)
from maille.http_api import Event, HttpApi, error_of_word
from maille.json_fields import Json
from maille.language_views import Usage

PATIENCE_S = 60.0
"""How long a lost coordinator is asked again; it keeps an answer without readers as long."""
_KEEP_S = 60
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_PAUSE_SHARE = 0.1
"""Of the time waited so far: so little longer than it must does the reader wait."""
_CHAT_PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Piece:
    """A bit of an answer."""

    text: str
    index: int
    """How many tokens of the answer there are up to and with this piece."""
    response_id: str
    finish_reason: str | None = None
    """On the last piece: "stop" or "length"."""
    usage: Usage | None = None
    """On the last piece."""
    resumed: int = 0
    """How often the connection was lost and found again so far."""


class Answer:
    """One answer to be streamed once.

    Args:
        http: the coordinator.
        path: `/v1/chat/completions` or `/v1/completions`.
        body: the request, without what this adds about streams.
        patience_s: how long to try again without a piece; None: a minute.
    """

    def __init__(
        self, http: HttpApi, path: str, body: Json, *, patience_s: float | None = None
    ) -> None:
        self.response_id = f"{'chatcmpl' if path == _CHAT_PATH else 'cmpl'}-{secrets.token_hex(12)}"
        self._http = http
        self._path = path
        self._body: dict[str, object] = {
            **body,
            "stream": True,
            "stream_options": {"include_usage": True},
            "maille_response_id": self.response_id,
            "maille_keep": _KEEP_S,
        }
        self._patience_s = PATIENCE_S if patience_s is None else patience_s
        self._begun = False
        self._index = 0
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._resumed = 0
        self._ended = False

    async def pieces(self) -> AsyncGenerator[Piece]:
        """The answer as it is made; closing this before its end cancels it.

        Raises:
            InputError, UnknownModel, GenerationFailed, MeshBusy: it cannot be made.
            MeshUnavailable: the coordinator was away for longer than the patience.
            UnknownResponse: it came back, but did not know the answer any longer.
        """
        by_id = False
        lost_at_s: float | None = None
        try:
            while True:
                try:
                    async with contextlib.aclosing(self._events(by_id)) as events:
                        async for event in events:
                            self._begun = by_id = True
                            lost_at_s = None
                            piece = self._take(event)
                            if piece is not None:
                                yield piece
                    error: MailleError = MeshUnavailable(
                        f"The coordinator at {self._http.url} broke the answer off. "
                        "Check that it runs, and ask again."
                    )
                except (MeshUnavailable, MeshBusy, InputError, UnknownResponse) as caught:
                    error = caught
                if self._ended:
                    return
                if not self._may_pass(error, by_id):
                    raise error
                now_s = time.monotonic()
                if lost_at_s is None:
                    lost_at_s = now_s
                    self._resumed += 1
                waited_s = now_s - lost_at_s
                if waited_s > self._patience_s:
                    raise error
                # The request may have been taken all the same: asked for by its id from now on, and
                # sent again (with that id) only where nobody has heard of it.
                by_id = not isinstance(error, UnknownResponse)
                pause_s = min(max(_FIRST_PAUSE_S, waited_s * _PAUSE_SHARE), _LONGEST_PAUSE_S)
                await asyncio.sleep(pause_s * random.uniform(0.75, 1.25))
        finally:
            if not self._ended:
                await self._cancel()

    def _may_pass(self, error: MailleError, by_id: bool) -> bool:
        """Whether asking again may help."""
        match error:
            case MeshUnavailable():
                return True
            case UnknownResponse():
                return by_id and not self._begun
            case _:
                # A coordinator that started anew may be some tokens behind what it had sent.
                return self._begun

    def _events(self, by_id: bool) -> AsyncGenerator[Event]:
        if not by_id:
            return self._http.events("POST", self._path, json=self._body)
        query: dict[str, str | int] = {"from": self._index, "keep": _KEEP_S, "usage": "true"}
        return self._http.events("GET", f"/v1/streams/{self.response_id}", params=query)

    def _take(self, event: Event) -> Piece | None:
        """What an event adds to the answer."""
        if event.data == "[DONE]":
            self._ended = True
            return Piece(
                "", self._index, self.response_id, self._finish_reason, self._usage, self._resumed
            )
        data = _object(event.data)
        error = data.get("error")
        if isinstance(error, Mapping):
            self._ended = True
            raise _error(cast("Json", error))
        usage = data.get("usage")
        if isinstance(usage, Mapping):
            self._usage = Usage.from_json(cast("Json", usage))
        choices = data.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else {}
        text = choice.get("text")
        delta = choice.get("delta")
        if isinstance(delta, Mapping):
            text = delta.get("content")
        reason = choice.get("finish_reason")
        if isinstance(reason, str):
            self._finish_reason = reason
        index = data.get("maille_index")
        if isinstance(index, int):
            self._index = index
        if not isinstance(text, str) or not text:
            return None
        return Piece(text, self._index, self.response_id, resumed=self._resumed)

    async def _cancel(self) -> None:
        """Nobody wants the rest: without this the mesh would go on for a minute."""
        with contextlib.suppress(MailleError):
            await asyncio.shield(self._http.cancel_response(self.response_id))


def _object(text: str) -> Json:
    try:
        data: object = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, Mapping):
        raise MeshUnavailable(
            "The coordinator sent something that is no event. Is that a Maille coordinator?"
        )
    return cast("Json", data)


def _error(error: Json) -> MailleError:
    text = str(error.get("message", "the answer failed"))
    kind = error_of_word(str(error.get("code", ""))) or GenerationFailed
    if kind is UnknownResponse or not issubclass(kind, MailleError):
        kind = GenerationFailed
    return kind(text[:1].upper() + text[1:])
