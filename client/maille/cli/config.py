"""One TOML file of settings: `url = ...` for every command, `[up]` and so on for one.

It comes last: flags win over MAILLE_* variables, and these over the file.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import platformdirs

from maille.errors import SettingsError
from maille.keys import check_key

_WITHOUT_A_FLAG = {"key"}
"""Settings that must not stand on a command line, where other users of the machine see it."""


class Parameter(Protocol):
    """What is needed of typer's parameters."""

    name: str | None
    opts: list[str]


class Command(Protocol):
    """What is needed of typer's commands; groups also have `commands`."""

    params: list[Parameter]


@dataclass(frozen=True, slots=True)
class Config:
    """The file's settings in the form that the command line takes as defaults."""

    path: Path | None = None
    key: str | None = field(default=None, repr=False)
    defaults: dict[str, object] = field(default_factory=dict)


def config_path(given: Path | None) -> Path | None:
    """The file to read: the one given (flag or MAILLE_CONFIG), or the user's own if it exists."""
    if given is not None:
        return given
    usual = platformdirs.user_config_path("maille") / "config.toml"
    return usual if usual.exists() else None


def read_config(path: Path | None, root: Command) -> Config:
    """Read and check the file against the commands and their options.

    Raises:
        SettingsError: not readable, not TOML, or a setting that no command has; with its line.
    """
    if path is None:
        return Config()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The settings file {path} cannot be read "
            f"({getattr(error, 'strerror', None) or error}). Correct --config or MAILLE_CONFIG."
        ) from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"The settings file {path} is not TOML: {error}. Correct that line."
        ) from error
    key = data.pop("key", None)
    if key is not None:
        if not isinstance(key, str):
            raise SettingsError(f"{path}, line {_line(text, 'key', ())}: key must be a text.")
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise SettingsError(
                f"{path} holds the key and others on this machine may read it. "
                f"Run: chmod 600 {path}"
            )
        key = check_key(key)
    return Config(path, key, _defaults(data, root, {}, (), _Source(path, text)))


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    text: str

    def error(self, name: str, place: tuple[str, ...], problem: str) -> SettingsError:
        return SettingsError(f"{self.path}, line {_line(self.text, name, place)}: {problem}")


def _defaults(
    data: Mapping[str, object],
    command: Command,
    inherited: Mapping[str, object],
    place: tuple[str, ...],
    source: _Source,
) -> dict[str, object]:
    """Defaults of a command and, nested under their names, of its subcommands."""
    subcommands = cast("Mapping[str, Command]", getattr(command, "commands", {}))
    own = _options(command)
    known = own | _options_below(subcommands)
    passed_on = dict(inherited)
    for name, value in data.items():
        if isinstance(value, dict) and name in subcommands:
            continue
        if name in _WITHOUT_A_FLAG:
            raise source.error(
                name, place, f"{name} stands at the top of the file, not in a table. Move it there."
            )
        if name.replace("_", "-") not in known or isinstance(value, dict):
            where = f"[{'.'.join(place)}]" if place else "the top of the file"
            names = sorted({*known, *(f"[{item}]" for item in subcommands)})
            raise source.error(
                name, place, f"{name!r} is no setting of {where}. There are: {', '.join(names)}."
            )
        passed_on[name.replace("_", "-")] = value
    defaults = {own[name]: value for name, value in passed_on.items() if name in own}
    for name, subcommand in subcommands.items():
        table = data.get(name)
        inner = _defaults(
            table if isinstance(table, dict) else {},
            subcommand,
            passed_on,
            (*place, name),
            source,
        )
        if inner:
            defaults[name] = inner
    return defaults


def _options(command: Command) -> dict[str, str]:
    """A command's settings as they are written (its long flags), with typer's name for each."""
    return {
        flag.removeprefix("--"): param.name
        for param in command.params
        for flag in param.opts
        if param.name and flag.startswith("--") and param.name not in {"config", "help"}
    }


def _options_below(commands: Mapping[str, Command]) -> dict[str, str]:
    found: dict[str, str] = {}
    for command in commands.values():
        found |= _options(command)
        found |= _options_below(getattr(command, "commands", {}))
    return found


def _line(text: str, name: str, place: tuple[str, ...]) -> int:
    """The line where a setting stands; 1 if it is written in a way that is not looked for."""
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\s*([^\]]+?)\s*\]", line)
        if header:
            table = header[1].replace('"', "").replace(" ", "")
            if table == ".".join((*place, name)):
                return number
        elif table == ".".join(place) and re.match(rf"\s*\"?{re.escape(name)}\"?\s*[=.]", line):
            return number
    return 1
