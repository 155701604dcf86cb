"""Messages of language models: what a hop costs, and the limits of activations and routes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from wire_strategies import activations

from maille_protocol import (
    Activation,
    ActivationFlag,
    ActivationKind,
    Message,
    Route,
    UsageError,
    WireError,
    cbor,
    pack,
    unpack,
)
from maille_protocol.limits import (
    MAX_ACTIVATION_DATA_BYTES,
    MAX_HOP_OVERHEAD_BYTES,
    MAX_PUBLISH_BYTES,
    MAX_UINT64,
)

_MAX_UINT32 = (1 << 32) - 1
_BYTES_A_HIDDEN_VALUE = 4

_ONE = Activation(
    pipeline=12,
    layout=300,
    session=70_000,
    stage=2,
    position=8_191,
    count=1,
    kind=ActivationKind.HIDDEN,
    flags=int(ActivationFlag.SAMPLE),
    until=0,
    part=0,
    parts=1,
    data=bytes(4),
)


def _largest(message: Message) -> bytes:
    """Packed with the longest boot, seq and epoch."""
    return pack(message, boot=MAX_UINT64, seq=MAX_UINT64, epoch=MAX_UINT64)


def test_the_limit_is_what_was_promised() -> None:
    assert MAX_HOP_OVERHEAD_BYTES == 64


@pytest.mark.parametrize("hidden_size", [288, 576, 4096])
def test_a_hop_of_one_token(hidden_size: int) -> None:
    hidden = np.linspace(-3, 3, hidden_size, dtype="<f4")
    hop = dataclasses.replace(_ONE, data=hidden.tobytes())
    data = _largest(hop)
    assert len(data) <= _BYTES_A_HIDDEN_VALUE * hidden_size + 64
    received = unpack(data).message
    assert isinstance(received, Activation)
    assert np.array_equal(np.frombuffer(received.data, "<f4"), hidden)


@pytest.mark.parametrize("hidden_size", [288, 576, 4096])
def test_a_hop_whose_every_number_is_the_largest(hidden_size: int) -> None:
    """Also a pipeline that ran for years stays within the limit."""
    hop = dataclasses.replace(
        _ONE,
        pipeline=_MAX_UINT32,
        layout=_MAX_UINT32,
        session=_MAX_UINT32,
        stage=255,
        position=1 << 24,
        until=255,
        data=bytes(_BYTES_A_HIDDEN_VALUE * hidden_size),
    )
    assert len(_largest(hop)) <= _BYTES_A_HIDDEN_VALUE * hidden_size + MAX_HOP_OVERHEAD_BYTES


@settings(max_examples=150, deadline=None)
@given(activations)
def test_whatever_its_numbers_a_single_part_costs_no_more(activation: Activation) -> None:
    hop = dataclasses.replace(activation, count=1, part=0, parts=1)
    assert len(_largest(hop)) <= len(hop.data) + MAX_HOP_OVERHEAD_BYTES


def test_a_token_on_its_way_to_the_first_stage() -> None:
    hop = dataclasses.replace(_ONE, kind=ActivationKind.TOKEN, stage=0, data=bytes(4))
    assert len(_largest(hop)) <= 4 + MAX_HOP_OVERHEAD_BYTES


def test_the_most_data_that_one_part_holds() -> None:
    full = dataclasses.replace(_ONE, data=bytes(MAX_ACTIVATION_DATA_BYTES))
    data = _largest(full)
    assert len(data) <= MAX_PUBLISH_BYTES
    assert unpack(data).message == full
    longer = dataclasses.replace(_ONE, data=bytes(MAX_ACTIVATION_DATA_BYTES + 1))
    with pytest.raises(WireError, match="activation data: expected at most 49088 bytes"):
        unpack(cbor.encode([1, 22, 1, 1, 1, longer.to_body()]))
    with pytest.raises(UsageError, match="a publish holds 49152"):
        pack(dataclasses.replace(_ONE, data=bytes(MAX_PUBLISH_BYTES)), boot=1, seq=1, epoch=1)


def test_a_step_of_prefill_joins_from_its_parts() -> None:
    """32 positions of SmolLM2, the longest step of prefill, take two publishes."""
    hidden = np.arange(32 * 576, dtype="<f4").tobytes()
    cuts = [
        hidden[start : start + MAX_ACTIVATION_DATA_BYTES]
        for start in range(0, len(hidden), MAX_ACTIVATION_DATA_BYTES)
    ]
    assert len(cuts) == 2
    joined = b""
    for part, cut in enumerate(cuts):
        sent = dataclasses.replace(_ONE, count=32, part=part, parts=len(cuts), data=cut)
        received = unpack(_largest(sent)).message
        assert isinstance(received, Activation)
        assert (received.part, received.parts) == (part, 2)
        joined += received.data
    assert joined == hidden


def test_a_route_of_the_most_stages_and_shadows() -> None:
    longest_id = "n" * 32
    long_ring = Route(1, 1, ((longest_id,),) * 255)
    assert unpack(_largest(long_ring)).message == long_ring
    wide_ring = Route(1, 1, ((longest_id,) * 9,) * 100)
    assert unpack(_largest(wide_ring)).message == wide_ring
    for wrong in (Route(1, 1, ()), Route(1, 1, ((),)), Route(1, 1, (("a",),) * 256)):
        with pytest.raises(WireError, match="are allowed"):
            unpack(_largest(wrong))
    with pytest.raises(WireError, match="10 nodes, 1 to 9 are allowed"):
        unpack(_largest(Route(1, 1, (("a",) * 10,))))
