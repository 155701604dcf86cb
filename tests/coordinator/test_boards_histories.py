"""Whatever the bus loses, doubles and delays, and whoever is cut off: boards end as wanted."""

from board_world import Weather, World, reference_of
from hypothesis import given, settings
from hypothesis import strategies as st

from maille_coordinator.boards import events as happened
from maille_coordinator.boards.records import SenseWish
from maille_coordinator.boards.state import SensePhase
from maille_protocol import OutcomeStatus, SenseMode
from maille_protocol.tensors import decode_tensors
from maille_simulator.boards.python_board import BoardLimits
from maille_simulator.boards.sample_models import dense_model, switch_model

NODES = ("a", "b")
MODELS = {"switch": switch_model(), "dense": dense_model(64, 20), "other": dense_model(64, 8, 5)}

weathers = st.builds(
    Weather,
    loss=st.floats(0, 0.3),
    doubling=st.floats(0, 0.3),
    delay_ms=st.sampled_from([(1.0, 1.0), (0.5, 40.0), (1.0, 900.0)]),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("deploy"), st.sampled_from(NODES), st.sampled_from(sorted(MODELS))),
        st.tuples(st.just("evict"), st.sampled_from(NODES), st.sampled_from(sorted(MODELS))),
        st.tuples(st.just("task"), st.sampled_from((*NODES, "any")), st.just("switch")),
        st.tuples(st.just("cut"), st.sampled_from(NODES), st.just("")),
        st.tuples(st.just("unplug"), st.sampled_from(NODES), st.just("")),
        st.tuples(st.just("calibrate"), st.sampled_from(NODES), st.just("")),
        st.tuples(st.just("restart"), st.just(""), st.just("")),
        st.tuples(st.just("sense"), st.sampled_from(NODES), st.just("switch")),
        st.tuples(st.just("stop"), st.just(""), st.just("")),
        st.tuples(st.just("wait"), st.just(""), st.just("")),
    ),
    max_size=8,
)


def play(world: World, story: list[tuple[str, str, str]]) -> dict[tuple[str, str], bool]:
    """Returns what a person wanted last of each (node, model): there (True) or gone."""
    wanted: dict[tuple[str, str], bool] = {}
    task = sense = 0
    for step, node, name in story:
        match step:
            case "deploy":
                world.ask(happened.DeployAsked(node, reference_of(world.models[name])))
                wanted[node, name] = True
            case "evict":
                in_use = any(
                    found.wish.model.name == name for found in world.boards.senses.of(node).values()
                )
                if not in_use:
                    world.ask(happened.EvictAsked(node, reference_of(world.models[name])))
                    wanted[node, name] = False
            case "task":
                task += 1
                world.submit(task, name, None if node == "any" else node)
            case "cut":
                world.power_cut(node)
            case "unplug":
                world.unplug(node)
            case "calibrate":
                world.ask(happened.CalibrateAsked(node))
            case "restart":
                world.restart_coordinator()
            case "sense":
                sense += 1
                model = reference_of(world.models[name])
                wish = SenseWish(sense, node, model, "adc0", 4000, SenseMode.ALWAYS, 0)
                world.ask(happened.SenseAsked(wish))
            case "stop":
                world.ask(happened.SenseStopped(sense))
            case _:
                pass
        world.run(world.random.choice([0, 30, 300, 4_000]))
    return wanted


@settings(max_examples=40, deadline=None)
@given(weathers, steps, st.integers(0, 1 << 16))
def test_every_history_ends_as_wanted(
    weather: Weather, story: list[tuple[str, str, str]], seed: int
) -> None:
    check(weather, story, seed)


def check(weather: Weather, story: list[tuple[str, str, str]], seed: int) -> None:
    world = World(weather=weather, seed=seed)
    for name, data in MODELS.items():
        world.add_model(name, data)
    limits = BoardLimits(max_models=3, chunk_bytes=200)
    for node in NODES:
        world.plug_in(node, limits, {"adc0": (1, lambda: [0.7])})
    world.run(3_000)
    wanted = play(world, story)
    # Now the weather clears up and everyone is there.
    world.weather = Weather(delay_ms=(1.0, 5.0))
    for node in NODES:
        if not world.devices[node].on:
            world.power_cut(node)
    world.run(200_000)

    for (node, name), there in wanted.items():
        if there:
            assert world.holds(node, world.models[name]), (node, name)
    assert not [key for key in world.journal if key[0] in ("evict", "calibrate")]
    for node in NODES:
        board = world.boards.boards[node]
        assert board.evictions == {}
        assert board.calibration is None
        assert not any(delivery.open for delivery in board.deliveries.values())
        state = world.devices[node].board._state()
        mine = {number for number, found in world.boards.senses.of(node).items()}
        assert set(state.senses) == mine
    for sense in world.boards.senses.senses.values():
        assert sense.phase is SensePhase.RUNNING, (sense.wish, sense.text)
        assert sense.readings
    assert not world.open_tasks
    for end in world.ends.values():
        assert end.status is OutcomeStatus.DONE, end
        assert isinstance(end.content, bytes)
        assert decode_tensors(end.content)["class"].tolist() == [1]
