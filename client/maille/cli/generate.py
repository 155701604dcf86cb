"""`maille generate`: a language model goes on from a text."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from maille.cli import output
from maille.cli.arguments import LanguageModelArgument
from maille.cli.common import (
    JsonOption,
    KeyFileOption,
    MeshOption,
    UrlOption,
    connected,
    friendly,
)
from maille.cli.language_output import Pace
from maille.errors import MailleError
from maille.language import GenerateOptions
from maille.language_stream import Piece

TemperatureOption = Annotated[
    float, typer.Option(min=0, max=2, help="0: always the likeliest token.")
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Of the answer; else as many as the context takes.", show_default=False
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(help="The same seed gives the same answer.", show_default=False),
]
TopPOption = Annotated[float, typer.Option(min=0, max=1, help="Share of the likeliest tokens.")]
TopKOption = Annotated[int, typer.Option(min=0, help="How many of the likeliest tokens; 0: all.")]
MinPOption = Annotated[
    float, typer.Option(min=0, max=1, help="Least share of the likeliest token's probability.")
]
RepetitionOption = Annotated[
    float, typer.Option("--repetition-penalty", min=0.01, max=100, help="1: none.")
]


def options_of(
    temperature: float,
    top_p: float,
    top_k: int,
    min_p: float,
    repetition_penalty: float,
    max_tokens: int | None,
    seed: int | None,
) -> GenerateOptions:
    """The flags as the Python API takes them."""
    options = GenerateOptions(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
    )
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if seed is not None:
        options["seed"] = seed
    return options


def write_out(pieces: Iterator[Piece], pace: Pace) -> tuple[str, Piece | None]:
    """Write an answer to standard output as it comes; the text, and the last piece."""
    text = ""
    last = None
    for piece in pieces:
        pace.take(piece)
        last = piece
        text += piece.text
        sys.stdout.write(piece.text)
        sys.stdout.flush()
    if not text.endswith("\n"):
        sys.stdout.write("\n")
        sys.stdout.flush()
    return text, last


@friendly
def generate(
    context: typer.Context,
    model: LanguageModelArgument,
    *,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", help="The text to go on from; else standard input."),
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt-file", "-f", help="A file that holds it.")
    ] = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = 1.0,
    top_p: TopPOption = 1.0,
    top_k: TopKOption = 0,
    min_p: MinPOption = 0.0,
    repetition_penalty: RepetitionOption = 1.0,
    seed: SeedOption = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends it; up to four.")] = None,
    url: UrlOption = None,
    mesh: MeshOption = None,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a language model go on from a text.

    The answer goes to standard output as it is made, what it took to standard error.
    """
    text = _prompt(prompt, prompt_file)
    options = options_of(temperature, top_p, top_k, min_p, repetition_penalty, max_tokens, seed)
    if stop:
        options["stop"] = stop
    with connected(context, url, mesh, key_file) as opened:
        pace = Pace()
        with closing(opened.generate_detailed(model, text, **options)) as pieces:
            if not as_json:
                write_out(pieces, pace)
                output.stderr().print(str(pace))
                return
            answer = ""
            last = None
            for piece in pieces:
                pace.take(piece)
                answer += piece.text
                last = piece
    output.print_json(
        {
            "model": model,
            "text": answer,
            "finish_reason": last.finish_reason if last else None,
            "response_id": last.response_id if last else None,
            "resumed": last.resumed if last else 0,
            "usage": last.usage if last else None,
            "tokens_per_s": pace.tokens_per_s,
            "first_token_s": pace.first_token_s,
        }
    )


def _prompt(prompt: str | None, prompt_file: Path | None) -> str:
    if prompt is not None and prompt_file is not None:
        raise typer.BadParameter("give --prompt or --prompt-file, not both")
    if prompt_file is not None:
        try:
            return prompt_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise MailleError(
                f"The prompt {prompt_file} cannot be read ({error}). Give a text file in UTF-8."
            ) from error
    if prompt is not None:
        return prompt
    if sys.stdin.isatty():
        raise typer.BadParameter("give --prompt, --prompt-file, or a text on standard input")
    return sys.stdin.read()
