"""Arguments and options that several commands take; names are completed from the mesh."""

from typing import Annotated

import typer

from maille.cli.completion import complete_model, complete_node

ModelArgument = Annotated[
    str, typer.Argument(help="The model's name.", autocompletion=complete_model)
]
LanguageModelArgument = Annotated[
    str,
    typer.Argument(help="A language model; name:2 for a version.", autocompletion=complete_model),
]
VersionOption = Annotated[
    int, typer.Option("--version", help="A version; else the newest.", show_default=False)
]
NodeArgument = Annotated[str, typer.Argument(help="The node's id.", autocompletion=complete_node)]
BoardArgument = Annotated[
    str,
    typer.Argument(help="The board, as `maille nodes` shows it.", autocompletion=complete_node),
]
