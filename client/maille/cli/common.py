"""What every command shares: options, the way to the mesh, errors that end in an exit code."""

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import typer

from maille.cli import output
from maille.cli.config import Config
from maille.errors import (
    MailleError,
    MeshNotFound,
    MeshUnavailable,
    SettingsError,
    Unauthorized,
)
from maille.keys import check_key, read_key_file
from maille.mesh import Mesh
from maille_broker import BrokerConfigError, BrokerError, BrokerRefused, BrokerUnavailable

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="MAILLE_URL",
        help="Coordinator (http://host:7700) or broker (mqtt://host:1883); found by itself if left out.",
        show_default=False,
    ),
]
MeshOption = Annotated[
    str | None,
    typer.Option("--mesh", envvar="MAILLE_MESH", help="Name of the mesh.", show_default=False),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        envvar="MAILLE_KEY_FILE",
        help="File that holds the mesh's key (or set MAILLE_KEY).",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(slots=True)
class State:
    """What the root command hands to its subcommands."""

    config: Config = field(default_factory=Config)
    verbose: int = 0


def friendly(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A command whose errors end as cause, next step and exit code instead of a traceback."""

    @functools.wraps(function)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        as_json = bool(kwargs.get("as_json", False))
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            # From here on nothing is left to be ended: another Ctrl-C just ends, without a traceback.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if not as_json:
                output.stderr().print("interrupted")
            raise typer.Exit(output.EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has gone (`maille map ... | head`).
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - until the process ends
            raise typer.Exit(output.EXIT_FAILED) from None
        except (MailleError, BrokerError) as error:
            output.print_error(error, as_json=as_json)
            raise typer.Exit(exit_code(error)) from None

    return wrapped


def exit_code(error: BaseException) -> int:
    """The exit code that an error ends in, see `output.EXIT_CODES`."""
    match error:
        case Unauthorized() | BrokerRefused():
            return output.EXIT_REFUSED
        case MeshNotFound() | MeshUnavailable() | BrokerUnavailable():
            return output.EXIT_UNREACHABLE
        case SettingsError() | BrokerConfigError():
            return output.EXIT_SETTINGS
        case _:
            return output.EXIT_FAILED


def state_of(context: typer.Context) -> State:
    """The root command's state."""
    found = context.find_root().obj
    return found if isinstance(found, State) else State()


def on_command_line(context: typer.Context, name: str) -> bool:
    """Whether a parameter was typed: not left out, nor taken from the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def find_key(context: typer.Context, key_file: Path | None) -> str | None:
    """The key: from --key-file, else MAILLE_KEY, else MAILLE_KEY_FILE, else the settings file."""
    given = os.environ.get("MAILLE_KEY")
    if key_file is not None and on_command_line(context, "key_file"):
        return read_key_file(key_file)
    if given:
        return check_key(given)
    if key_file is not None:
        return read_key_file(key_file)
    return state_of(context).config.key


def ask_for_key() -> str:
    """Ask the person at the terminal, without showing what is typed."""
    return check_key(str(typer.prompt("Key of the mesh", hide_input=True, err=True)))


def may_ask() -> bool:
    """Whether a person sits at the terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


@contextmanager
def connected(
    context: typer.Context,
    url: str | None,
    mesh: str | None,
    key_file: Path | None,
    timeout_s: float = 30.0,
) -> Iterator[Mesh]:
    """An open mesh; asks for the key at a terminal when the mesh wants one and none was given."""
    key = find_key(context, key_file)
    opened = Mesh(url, key=key, mesh=mesh, timeout_s=timeout_s)
    try:
        opened.open()
    except Unauthorized:
        if key is not None or not may_ask():
            raise
        opened = Mesh(url, key=ask_for_key(), mesh=mesh, timeout_s=timeout_s)
        opened.open()
    try:
        yield opened
    finally:
        opened.close()
