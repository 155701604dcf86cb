"""Tiny models of the catalogue, decoded: they say what integers mean."""

from collections import OrderedDict

from maille_coordinator.models.artefacts import ArtefactStore
from maille_coordinator.models.errors import ModelsError
from maille_protocol import WireError
from maille_protocol.tiny import Model, decode_model

_KEPT = 64


class TinyModels:
    """Decoded containers by SHA-256, the last few kept in memory. They are small files."""

    def __init__(self, artefacts: ArtefactStore) -> None:
        self._artefacts = artefacts
        self._kept: OrderedDict[bytes, tuple[bytes, Model]] = OrderedDict()

    def get(self, sha256: bytes) -> Model:
        """The model.

        Raises:
            ModelsError: its bytes are not stored (any more), or damaged.
            OSError: they cannot be read.
        """
        return self._find(sha256)[1]

    def data(self, sha256: bytes) -> bytes:
        """Its container's bytes; errors as `get`."""
        return self._find(sha256)[0]

    def _find(self, sha256: bytes) -> tuple[bytes, Model]:
        found = self._kept.get(sha256)
        if found is None:
            data = self._artefacts.path(sha256.hex()).read_bytes()
            try:
                found = data, decode_model(data)
            except WireError as error:
                raise ModelsError(
                    f"artefact {sha256.hex()[:12]} is no tiny model: {error}"
                ) from error
            self._kept[sha256] = found
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(sha256)
        return found
