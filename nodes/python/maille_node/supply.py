"""What tasks need from the coordinator's HTTP: models and inputs in, large outputs out."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from maille_broker import Endpoint
from maille_node import events
from maille_node.artefacts import ArtefactCache
from maille_node.errors import NodeError, SettingsError, TaskProblem
from maille_node.events import Event
from maille_node.runtime import Runtime
from maille_node.settings import check_http_url
from maille_protocol import ErrorCode, ModelReference, Reference

logger = logging.getLogger(__name__)


class SupplySettings(Protocol):
    """What must be known of a node to reach its coordinator."""

    @property
    def endpoint(self) -> Endpoint:
        """The broker."""

    @property
    def key(self) -> str | None:
        """Shown to the coordinator's HTTP API."""

    @property
    def http_url(self) -> str | None:
        """The address that the user gave."""


class Supply:
    """Carries the core's wishes out, each as a coroutine that ends with an event.

    Args:
        settings: the key, and the address if the user gave one.
        artefacts: the cache on disk.
        runtime: the models in memory; None where `prepare` is never asked.
        feed: takes the events.
    """

    def __init__(
        self,
        settings: SupplySettings,
        artefacts: ArtefactCache,
        runtime: Runtime | None,
        feed: Callable[[Event], None],
    ) -> None:
        self._settings = settings
        self._artefacts = artefacts
        self._runtime = runtime
        self._feed = feed
        self._looking_up: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """End what is under way here; the coroutines are their callers' own."""
        if self._looking_up is not None:
            self._looking_up.cancel()
            await asyncio.gather(self._looking_up, return_exceptions=True)

    # --- the coordinator's address -------------------------------------------------------------

    def use_coordinator(self, http_url: str) -> None:
        """Ask this address from now on; "" if the coordinator has none."""
        if http_url:
            try:
                check_http_url(http_url)
            except SettingsError:
                logger.warning("the coordinator announces an address that cannot be used")
                return
        if self._looking_up is not None:
            self._looking_up.cancel()
            self._looking_up = None
        key = self._settings.key
        if key is None:
            self._artefacts.use(http_url, {})
        elif self._settings.http_url is not None:
            self._artefacts.use(http_url, {"Authorization": f"Bearer {key}"})
        else:
            self._looking_up = asyncio.create_task(self._use_with_key(http_url, key))

    async def _use_with_key(self, http_url: str, key: str) -> None:
        """Show the key only to the broker's machine: whoever may publish could announce another."""
        host = urlsplit(http_url).hostname or ""
        if not host or await _same_host(host, self._settings.endpoint.host):
            self._artefacts.use(http_url, {"Authorization": f"Bearer {key}"})
            return
        reason = (
            "the key was not shown, because the address announced is not on the broker's "
            "machine; give this node the coordinator's address"
        )
        logger.warning("%s: %s", http_url, reason)
        self._artefacts.use(http_url, {}, reason)

    async def _address_known(self) -> None:
        if self._looking_up is not None:
            await asyncio.wait((self._looking_up,))

    # --- models, inputs, outputs ---------------------------------------------------------------

    async def prepare(self, model: ModelReference) -> None:
        """Fetch and load a model; ends with `ModelReady` or `ModelFailed`."""
        runtime, artefacts = self._runtime, self._artefacts
        if runtime is None:
            raise NodeError("nothing runs models here")
        await self._address_known()
        known = runtime.known_problem(model.sha256)
        if known is not None:
            self._feed(events.ModelFailed(model.sha256, known.code, known.text))
            return
        artefacts.acquire(model.sha256)
        try:
            path = await artefacts.fetch(model.sha256, model.size_bytes)
            loaded = await runtime.load(model, path)
            self._feed(events.ModelReady(model.sha256, loaded.joinable))
        except TaskProblem as problem:
            logger.warning("model %s: %s", model.name, problem.text)
            self._feed(events.ModelFailed(model.sha256, problem.code, problem.text))
        # Whatever it is, the tasks that wait for the model must hear of it.
        except Exception as error:
            logger.exception("model %s could not be prepared", model.name)
            text = f"the node failed to prepare the model: {type(error).__name__}"
            self._feed(events.ModelFailed(model.sha256, ErrorCode.NODE_ERROR, text))
        finally:
            artefacts.release(model.sha256)

    async def fetch_slice(self, reference: Reference) -> Path:
        """Bring a slice of a language model to the disk and keep it until `release_slice`.

        Raises:
            TaskProblem: it cannot be had.
        """
        await self._address_known()
        self._artefacts.acquire(reference.sha256)
        try:
            return await self._artefacts.fetch(reference.sha256, reference.size_bytes)
        except BaseException:
            self._artefacts.release(reference.sha256)
            raise

    def release_slice(self, sha256: bytes) -> None:
        """Undo one `fetch_slice`."""
        self._artefacts.release(sha256)

    async def fetch_input(self, task_id: bytes, reference: Reference) -> None:
        """Fetch an input; ends with `InputReady` or `InputFailed`."""
        await self._address_known()
        try:
            await self._artefacts.fetch(reference.sha256, reference.size_bytes)
            self._feed(events.InputReady(task_id))
        except TaskProblem as problem:
            logger.warning("input of task %s: %s", task_id.hex(), problem.text)
            code = (
                ErrorCode.CONTENT_UNAVAILABLE
                if problem.code is ErrorCode.ARTEFACT_UNAVAILABLE
                else problem.code
            )
            self._feed(events.InputFailed(task_id, code, problem.text))
        except Exception as error:
            logger.exception("the input of task %s could not be fetched", task_id.hex())
            text = f"the node failed to fetch the input: {type(error).__name__}"
            self._feed(events.InputFailed(task_id, ErrorCode.NODE_ERROR, text))

    async def upload(self, task_id: bytes, data: bytes) -> None:
        """Deliver an output; ends with `Uploaded` or `UploadFailed`."""
        await self._address_known()
        try:
            sha256 = await self._artefacts.put(data)
            self._feed(events.Uploaded(task_id, Reference(sha256, len(data))))
        except TaskProblem as problem:
            logger.warning("output of task %s: %s", task_id.hex(), problem.text)
            self._feed(events.UploadFailed(task_id, problem.code, problem.text))
        except Exception as error:
            logger.exception("the output of task %s could not be delivered", task_id.hex())
            text = f"the node failed to deliver the output: {type(error).__name__}"
            self._feed(events.UploadFailed(task_id, ErrorCode.NODE_ERROR, text))


async def _same_host(one: str, other: str) -> bool:
    """Whether two host names mean one machine; loopback is always this one."""
    if one.lower() == other.lower():
        return True
    ours, theirs = await _addresses(one), await _addresses(other)
    return bool(ours & theirs) or any(ipaddress.ip_address(text).is_loopback for text in ours)


async def _addresses(host: str) -> set[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {str(entry[4][0]).split("%", 1)[0] for entry in found}
