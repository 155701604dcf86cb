"""`maille chat`: a conversation with a language model, at the terminal or through a pipe."""

import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Annotated, Self

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from maille.cli import output
from maille.cli.common import KeyFileOption, MeshOption, UrlOption, connected, friendly
from maille.cli.completion import complete_model
from maille.cli.generate import (
    MaxTokensOption,
    MinPOption,
    RepetitionOption,
    SeedOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    options_of,
    write_out,
)
from maille.cli.language_output import Pace, print_places
from maille.errors import MailleError
from maille.language import GenerateOptions
from maille.language_stream import Piece
from maille.language_views import LanguageModel
from maille.mesh import Mesh

_HELP = "/quit ends, /reset forgets what was said, /system TEXT says how to answer"


@dataclass(slots=True)
class Conversation:
    """What was said so far."""

    system: str = ""
    turns: list[dict[str, str]] = field(default_factory=list)

    def messages(self) -> list[dict[str, str]]:
        """All of it, as the model takes it."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self.turns]

    def say(self, role: str, text: str) -> None:
        """One more turn."""
        self.turns.append({"role": role, "content": text})


@friendly
def chat(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help="A language model; may be left out if there is one.", autocompletion=complete_model
        ),
    ] = None,
    *,
    system: Annotated[str, typer.Option(help="How to answer.")] = "",
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = 0.7,
    top_p: TopPOption = 0.95,
    top_k: TopKOption = 0,
    min_p: MinPOption = 0.0,
    repetition_penalty: RepetitionOption = 1.0,
    seed: SeedOption = None,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
) -> None:
    """Talk with a language model. What comes through a pipe is answered once.

    At the terminal: /quit ends, /reset forgets what was said, /system TEXT says how to answer;
    Ctrl-C stops an answer.
    """
    options = options_of(temperature, top_p, top_k, min_p, repetition_penalty, max_tokens, seed)
    with connected(context, url, mesh, key_file) as opened:
        found = opened.language_model(model)
        conversation = Conversation(system)
        if sys.stdin.isatty():
            _Talk(opened, model or found.name, found, conversation, options).run()
            return
        text = sys.stdin.read().strip()
        if not text:
            raise MailleError("There is nothing to answer. Give a text on standard input.")
        conversation.say("user", text)
        pace = Pace()
        pieces = opened.chat_detailed(conversation.messages(), model=model or found.name, **options)
        with closing(pieces):
            write_out(pieces, pace)
        output.stderr().print(str(pace))


class _Talk:
    """A conversation at a terminal."""

    def __init__(
        self,
        mesh: Mesh,
        name: str,
        model: LanguageModel,
        conversation: Conversation,
        options: GenerateOptions,
    ) -> None:
        self._mesh = mesh
        self._name = name
        self._model = model
        self._conversation = conversation
        self._options = options
        self._console = output.stdout()

    def run(self) -> None:
        """Talk until /quit or the end of the input."""
        print_places(self._console, self._model)
        self._console.print(_HELP, style="dim", markup=False)
        while True:
            try:
                said = input("> ").strip()
            except EOFError:
                self._console.print()
                return
            command, _, rest = said.partition(" ")
            match command:
                case "":
                    continue
                case "/quit" | "/exit":
                    return
                case "/reset":
                    self._conversation.turns.clear()
                    self._console.print("forgotten", style="dim")
                case "/system":
                    self._conversation.system = rest.strip()
                    self._console.print("noted", style="dim")
                case _ if command.startswith("/"):
                    self._console.print(_HELP, style="dim", markup=False)
                case _:
                    self._answer(said)
                    self._show_changes()

    def _answer(self, said: str) -> None:
        self._conversation.say("user", said)
        pace = Pace()
        pieces = self._mesh.chat_detailed(
            self._conversation.messages(), model=self._name, **self._options
        )
        text = ""
        with closing(pieces), _Live(self._console, pace) as live:
            try:
                for piece in _paced(pieces, pace):
                    text += piece.text
                    live.write(piece.text)
            except KeyboardInterrupt:
                live.note("stopped")
            except MailleError as error:
                live.end()
                output.print_error(error, as_json=False)
        if text:
            self._conversation.say("assistant", text)
        else:
            # A question without an answer would be asked again with the next one.
            self._conversation.turns.pop()

    def _show_changes(self) -> None:
        """Say where the layers are, if they have moved."""
        with suppress(MailleError):
            now = self._mesh.language_model(self._name)
            if now.stages != self._model.stages or now.version != self._model.version:
                self._console.print("the layers have moved:", style="dim")
                print_places(self._console, now)
            self._model = now


class _Live:
    """Writes a text as it comes, with the pace in a line below it until it ends.

    Whole lines are printed for good; only the last, unfinished one is drawn again and again.
    """

    def __init__(self, console: Console, pace: Pace) -> None:
        self._pace = pace
        self._line = ""
        self._live = Live(console=console, transient=True, auto_refresh=True)
        self._console = console
        self._ended = False

    def __enter__(self) -> Self:
        self._live.start()
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def write(self, text: str) -> None:
        """A bit more of the text."""
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            self._print(line)
        self._draw()

    def note(self, text: str) -> None:
        """A remark after the text."""
        self.end()
        self._console.print(text, style="dim")

    def end(self) -> None:
        """Print what is left, and the pace."""
        if self._ended:
            return
        self._ended = True
        self._live.stop()
        if self._line:
            self._print(self._line)
        self._console.print(str(self._pace), style="dim", markup=False)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def _draw(self) -> None:
        pace = Text(str(self._pace), style="dim")
        self._live.update(Group(Text(self._line), pace) if self._line else pace)


def _paced(pieces: Iterator[Piece], pace: Pace) -> Iterator[Piece]:
    for piece in pieces:
        pace.take(piece)
        yield piece
