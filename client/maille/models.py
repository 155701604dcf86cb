"""The mesh's catalogue of models: `mesh.models` of both meshes."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from maille.errors import MailleError
from maille.http_api import OnProgress
from maille.signatures import find_model
from maille.views import Model

if TYPE_CHECKING:
    from maille.async_mesh import AsyncMesh
    from maille.mesh import Mesh


class AsyncModels:
    """The mesh's catalogue of models (`mesh.models`)."""

    def __init__(self, mesh: "AsyncMesh") -> None:
        self._mesh = mesh

    async def add(
        self,
        path: str | PathLike[str],
        name: str | None = None,
        *,
        description: str = "",
        on_progress: OnProgress | None = None,
    ) -> Model:
        """Upload a model file; the name is made from the file's unless given.

        Raises:
            ModelRejected: the file is no model that the mesh can run; the text says why.
        """
        model = await self._mesh.http.add_model(
            readable_file(path), name=name, description=description, on_progress=on_progress
        )
        self._mesh.signatures.forget(model.name)
        return model

    async def list(self) -> "list[Model]":
        """Every version of every model, by name."""
        models = await self._mesh.http.models()
        return sorted(models, key=lambda model: (model.name, model.version))

    async def show(self, name: str, version: int = 0) -> Model:
        """One model, the newest version unless given; UnknownModel."""
        return find_model(await self._mesh.http.models(), name, version)

    async def remove(self, name: str, version: int = 0) -> None:
        """Remove one version of a model, 0 for all; UnknownModel."""
        await self._mesh.http.remove_model(name, version)
        self._mesh.signatures.forget(name)


class Models:
    """The mesh's catalogue of models (`mesh.models`)."""

    def __init__(self, mesh: "Mesh") -> None:
        self._mesh = mesh

    def add(
        self,
        path: str | PathLike[str],
        name: str | None = None,
        *,
        description: str = "",
        on_progress: OnProgress | None = None,
    ) -> Model:
        """Upload a model file; as `AsyncModels.add`. `on_progress` is called in another thread."""
        return self._mesh.wait_for(
            self._mesh.asynchronous.models.add(
                path, name, description=description, on_progress=on_progress
            )
        )

    def list(self) -> "list[Model]":
        """Every version of every model, by name."""
        return self._mesh.wait_for(self._mesh.asynchronous.models.list())

    def show(self, name: str, version: int = 0) -> Model:
        """One model, the newest version unless given; UnknownModel."""
        return self._mesh.wait_for(self._mesh.asynchronous.models.show(name, version))

    def remove(self, name: str, version: int = 0) -> None:
        """Remove one version of a model, 0 for all; UnknownModel."""
        self._mesh.wait_for(self._mesh.asynchronous.models.remove(name, version))


def readable_file(path: str | PathLike[str]) -> Path:
    """The path, if a file is there.

    Raises:
        MailleError: there is none, or it cannot be read.
    """
    file = Path(path)
    try:
        with file.open("rb"):
            return file
    except OSError as error:
        raise MailleError(
            f"The file {file} cannot be read ({error.strerror or error}). Check the path."
        ) from error
