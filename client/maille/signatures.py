"""What a program has learned about the mesh's models: their inputs, and how busy to keep them."""

import contextlib
from collections.abc import Iterable
from difflib import get_close_matches

from maille.errors import InputError, UnknownModel
from maille.http_api import HttpApi
from maille.limiter import Limiter
from maille.tiny_values import as_people_see_it, decode_tiny, quantised
from maille.values import Inputs, encode, prepare
from maille.views import Model
from maille_protocol.tiny import Model as TinyModel


class Signatures:
    """The models that have been asked for.

    Args:
        http: the coordinator's API.
        max_input_bytes: what the inputs of one task may hold.
    """

    def __init__(self, http: HttpApi, max_input_bytes: int) -> None:
        self._http = http
        self._max_input_bytes = max_input_bytes
        self._known: dict[tuple[str, int], Model] = {}
        self._limiters: dict[tuple[str, int], Limiter] = {}
        self._tiny: dict[str, TinyModel] = {}

    def cached(self, model: str, version: int) -> Model | None:
        """A model's signature, if it has been asked for before."""
        return self._known.get((model, version))

    async def signature(self, model: str, version: int = 0) -> Model:
        """A model's signature; UnknownModel names near ones."""
        known = self._known.get((model, version))
        if known is not None:
            return known
        return await self._look_up(model, version)

    async def content(self, model: str, version: int, inputs: Inputs) -> bytes:
        """The bytes of inputs for a model; UnknownModel, InputError.

        Inputs that do not fit the signature known from before are checked against the newest
        version once more: the model may have been replaced since.
        """
        known = self._known.get((model, version))
        if known is not None:
            try:
                return self.encoded(known, inputs)
            except InputError:
                if version:
                    raise
        return self.encoded(await self._look_up(model, version), inputs)

    def encoded(self, model: Model, inputs: Inputs) -> bytes:
        """The bytes of inputs that fit the model; InputError."""
        tiny = self.tiny(model)
        if tiny is None:
            arrays = prepare(inputs, model.inputs, model.name)
        else:
            arrays = quantised(inputs, model, tiny)
        return encode(arrays, self._max_input_bytes)

    def tiny(self, model: Model | None) -> TinyModel | None:
        """What the integers of a tiny model mean; None for any other."""
        return None if model is None else self._tiny.get(model.sha256)

    async def tiny_of_task(self, task_id: str) -> TinyModel | None:
        """As `tiny`, for a task that this program knows only by its id."""
        if not any(model.format == "tiny" for model in await self._http.models()):
            return None
        told = await self._http.task(task_id)
        name, version = told.get("model"), told.get("version")
        if not isinstance(name, str) or not isinstance(version, int):
            return None
        with contextlib.suppress(UnknownModel):  # removed since: its integers are all there is
            return self.tiny(await self.signature(name, version))
        return None

    def forget(self, model: str) -> None:
        """Ask for a model's signature anew next time."""
        self._known = {key: item for key, item in self._known.items() if key[0] != model}

    def limiter(self, model: Model) -> Limiter:
        """What this program has learned about how many tasks of a model to keep in flight."""
        return self._limiters.setdefault((model.name, model.version), Limiter())

    async def _look_up(self, model: str, version: int) -> Model:
        """Ask for a model's signature, and for what its integers mean if it is a tiny one."""
        found = find_model(await self._http.models(), model, version)
        if found.format == "tiny":
            if found.sha256 not in self._tiny:
                data = await self._http.get_bytes(bytes.fromhex(found.sha256), found.size_bytes)
                self._tiny[found.sha256] = decode_tiny(found, data)
            found = as_people_see_it(found, self._tiny[found.sha256])
        self._known[model, version] = found
        return found


def find_model(models: list[Model], model: str, version: int) -> Model:
    """A model of the catalogue, its newest version unless given; UnknownModel."""
    found = [item for item in models if item.name == model]
    if version:
        exact = [item for item in found if item.version == version]
        if found and not exact:
            versions = ", ".join(str(item.version) for item in found)
            raise UnknownModel(f"Model {model!r} has no version {version}, only {versions}.")
        found = exact
    if not found:
        raise UnknownModel(_unknown_model(model, [item.name for item in models]))
    return max(found, key=lambda item: item.version)


def _unknown_model(model: str, names: Iterable[str]) -> str:
    """That there is no such model, and which is near."""
    known = sorted(set(names))
    near = get_close_matches(model, known, 3)
    if near:
        return f"No model is called {model!r}: did you mean {', '.join(near)}?"
    if known:
        return f"No model is called {model!r}. The mesh has: {', '.join(known[:20])}."
    return (
        f"No model is called {model!r}: the mesh has none. Add one with `maille models add FILE`."
    )
