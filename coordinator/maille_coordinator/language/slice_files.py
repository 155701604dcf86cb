"""Slices cut into the artefact store, and a list of which is which, so that none is cut twice."""

import asyncio
import hashlib
import json
import logging
from pathlib import Path

import cbor2

from maille_coordinator.models import ArtefactStore
from maille_coordinator.slices import LanguageModel, Tokenizer, write_slice
from maille_coordinator.slices.cut import SLICE_VERSION
from maille_protocol import Reference

logger = logging.getLogger(__name__)

_VOCABULARY_VERSION = 1


class SliceFiles:
    """The slices in `artefacts`; the list is in the file `index`."""

    def __init__(self, artefacts: ArtefactStore, index: Path) -> None:
        self._artefacts = artefacts
        self._index = index
        self._known: dict[str, tuple[str, int]] = {}
        self._one_at_a_time = asyncio.Lock()
        try:
            found = json.loads(index.read_text())
            self._known = {str(key): (str(sha), int(size)) for key, (sha, size) in found.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("%s is not readable (%s): slices will be cut anew", index, error)

    async def cut(
        self, model: LanguageModel, sha256: bytes, first: int, last: int, *, with_ends: bool
    ) -> Reference:
        """A slice of the model whose file has this SHA-256.

        Raises:
            SliceError, ArtefactError: it cannot be made, or there is no room for it.
        """
        key = f"{SLICE_VERSION}:{sha256.hex()}:{first}:{last}:{int(with_ends)}"
        async with self._one_at_a_time:
            known = self._known.get(key)
            if known is not None and self._artefacts.info(known[0]) is not None:
                return Reference(bytes.fromhex(known[0]), known[1])
            written = await asyncio.to_thread(
                write_slice,
                model,
                first,
                last,
                self._artefacts.scratch,
                with_embedding=with_ends and first == 0,
                with_head=with_ends and last == model.layer_count - 1,
            )
            info = await self._artefacts.adopt(written.path)
            self._known[key] = (info.sha256, info.size_bytes)
            await asyncio.to_thread(self._save, dict(self._known))
            return Reference(written.sha256, written.size_bytes)

    async def vocabulary(
        self, model: LanguageModel, tokenizer: Tokenizer, sha256: bytes
    ) -> Reference:
        """The model's tokens as a node wants them for grammars (SPEC.md, token slices).

        Raises:
            ArtefactError: there is no room for it.
        """
        key = f"{_VOCABULARY_VERSION}:{sha256.hex()}:vocabulary"
        async with self._one_at_a_time:
            known = self._known.get(key)
            if known is not None and self._artefacts.info(known[0]) is not None:
                return Reference(bytes.fromhex(known[0]), known[1])
            path = await asyncio.to_thread(
                _write_vocabulary, model, tokenizer, self._artefacts.scratch
            )
            info = await self._artefacts.adopt(path)
            self._known[key] = (info.sha256, info.size_bytes)
            await asyncio.to_thread(self._save, dict(self._known))
            return Reference(bytes.fromhex(info.sha256), info.size_bytes)

    def forget(self, sha256: bytes) -> None:
        """Let the slices of a model go."""
        mark = f":{sha256.hex()}:"
        for key in [key for key in self._known if mark in key]:
            name, _ = self._known.pop(key)
            if self._artefacts.info(name) is not None:
                self._artefacts.release(name)
        self._save(self._known)

    def _save(self, known: dict[str, tuple[str, int]]) -> None:
        part = self._index.with_suffix(".part")
        try:
            part.write_text(json.dumps(known))
            part.replace(self._index)
        except OSError as error:
            # They are only cut again after the next start.
            logger.warning("%s cannot be written: %s", self._index, error)


def _write_vocabulary(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> Path:
    size = model.vocabulary_size
    special = [token for token in range(size) if not tokenizer.token_bytes(token)]
    tokens = [tokenizer.token_bytes(token, special=True) for token in range(size)]
    data = cbor2.dumps([sorted(model.eos_tokens), special, tokens])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    return path
