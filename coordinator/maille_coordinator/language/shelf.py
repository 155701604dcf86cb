"""The language models' files that are open, are being read, or cannot be."""

import asyncio
import logging
from collections.abc import Callable

from maille_coordinator.language.events import ModelKey
from maille_coordinator.language.model_files import LoadedModel, load_model
from maille_coordinator.models import ArtefactStore, Catalogue, ModelsError, UnknownModel
from maille_coordinator.records import ModelRecord
from maille_coordinator.service import ServiceError
from maille_coordinator.slices import LanguageModelError
from maille_protocol import ModelFormat

logger = logging.getLogger(__name__)


class ModelShelf:
    """Reads files in threads. All calls belong into the event loop.

    Args:
        artefacts: where the files are.
        catalogue: what they are called.
        on_read: told of each model that was read.
        on_broken: told of each one that cannot be.
    """

    def __init__(
        self,
        artefacts: ArtefactStore,
        catalogue: Catalogue,
        on_read: Callable[[LoadedModel], None],
        on_broken: Callable[[ModelKey], None],
    ) -> None:
        self._artefacts = artefacts
        self._catalogue = catalogue
        self._on_read = on_read
        self._on_broken = on_broken
        self._reading: dict[ModelKey, asyncio.Task[None]] = {}
        self.loaded: dict[ModelKey, LoadedModel] = {}
        self.broken: dict[ModelKey, str] = {}
        """Why a file cannot be used."""

    def read(self, record: ModelRecord) -> None:
        """Begin to read a model that the catalogue has."""
        key = (record.name, record.version)
        if key in self._reading or key in self.loaded:
            return
        self.broken.pop(key, None)
        task = asyncio.get_running_loop().create_task(self._read(record), name="read model")
        self._reading[key] = task
        task.add_done_callback(lambda _: self._reading.pop(key, None))

    async def _read(self, record: ModelRecord) -> None:
        key = (record.name, record.version)
        try:
            path = self._artefacts.path(record.sha256.hex())
            loaded = await asyncio.to_thread(load_model, record, path)
        except (LanguageModelError, ModelsError, OSError) as error:
            self.broken[key] = str(error)
            logger.warning("model %s version %d: %s", *key, error)
            self._on_broken(key)
            return
        self.loaded[key] = loaded
        self._on_read(loaded)

    def keys_of(self, name: str, version: int) -> list[ModelKey]:
        """What there is of a model (version 0: all versions)."""
        keys = {*self.loaded, *self.broken, *self._reading}
        return sorted(key for key in keys if key[0] == name and version in (0, key[1]))

    def remove(self, key: ModelKey) -> LoadedModel | None:
        """Forget a model, read or not."""
        reading = self._reading.pop(key, None)
        if reading is not None:
            reading.cancel()
        self.broken.pop(key, None)
        return self.loaded.pop(key, None)

    async def require(self, name: str) -> LoadedModel:
        """A model by its name, or "name:version"; waits while it is read.

        Raises:
            ServiceError: 404 unknown_model; 503 model_broken.
        """
        base, _, number = name.partition(":")
        if number and not number.isdecimal():
            raise ServiceError(404, "unknown_model", f"{number[:20]!r} is no version of a model")
        try:
            record = self._catalogue.require(base, int(number or 0))
        except UnknownModel as error:
            raise ServiceError(404, "unknown_model", str(error)) from error
        if record.format is not ModelFormat.GGUF:
            raise ServiceError(
                404, "unknown_model", f"{base!r} is no language model: send it tasks instead"
            )
        key = (record.name, record.version)
        reading = self._reading.get(key)
        if reading is not None:
            await asyncio.wait([reading])
        loaded = self.loaded.get(key)
        if loaded is None:
            raise ServiceError(
                503,
                "model_broken",
                f"model {base!r} cannot be read: {self.broken.get(key, 'it was just removed')}",
            )
        return loaded

    async def wait(self) -> None:
        """Until nothing is being read."""
        if self._reading:
            await asyncio.wait(list(self._reading.values()))

    def close(self) -> None:
        """Stop reading."""
        for task in self._reading.values():
            task.cancel()
