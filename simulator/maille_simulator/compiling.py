"""Small programs of the simulator that are compiled when first needed, and kept for their sources."""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maille_node.firmware.avr import cache_directory

_C_COMPILERS = ("cc", "gcc")


class CompilerMissing(Exception):
    """Raised when none of the compilers is installed."""


class CompileFailed(Exception):
    """Raised when a program does not compile; the text is what the compiler says.

    Args:
        compiler: its path.
        said: on its standard error.
    """

    def __init__(self, compiler: str, said: str) -> None:
        super().__init__(said)
        self.compiler = compiler


@dataclass(frozen=True, slots=True)
class Program:
    """What is compiled, from what and how."""

    name: str
    """Of the file, before the digest."""
    sources: Sequence[Path]
    flags: Sequence[str]
    libraries: Sequence[str]
    headers: Sequence[Path] = ()
    """What the sources include, for the digest."""
    include: Sequence[Path] = ()
    compilers: Sequence[str] = _C_COMPILERS
    suffix: str = ""

    def path(self, folder: str) -> Path:
        """The compiled file, in this folder of the cache; made anew when what it is made of changes.

        Raises:
            CompilerMissing, CompileFailed: with the text for people left to the caller.
        """
        digest = hashlib.sha256("\0".join(self.flags).encode())
        for read in (*self.sources, *self.headers):
            digest.update(read.read_bytes())
        kept = cache_directory().parent / folder
        made = kept / f"{self.name}-{digest.hexdigest()[:16]}{self.suffix}"
        if made.is_file():
            return made
        compiler = next(filter(None, map(shutil.which, self.compilers)), None)
        if compiler is None:
            raise CompilerMissing
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept) as at:
            partial = Path(at) / made.name
            command = [compiler, *self.flags, *(f"-I{one}" for one in self.include)]
            command += ["-o", str(partial), *map(str, self.sources), *self.libraries]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise CompileFailed(compiler, done.stderr.strip()[-2000:])
            partial.replace(made)
        return made
