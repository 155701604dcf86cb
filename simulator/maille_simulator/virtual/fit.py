"""A machine's profile for virtual time, found so that virtual probes take what real ones took."""

from dataclasses import replace
from statistics import median

from maille_simulator.scenario.values import (
    Expectations,
    Load,
    LoadKind,
    ModelUse,
    NodeGroup,
    NodeKindName,
    Scenario,
)
from maille_simulator.virtual.probes import (
    BURST_TASKS,
    BURSTS,
    PROBES,
    RUN_MS,
    SINGLES,
    SLOTS,
    ProbeTimes,
)
from maille_simulator.virtual.scenario_run import MachineProfile, run_virtually

MESSAGES_OF_A_TASK = 4
"""Submission, offer, result and outcome."""

LEAST_HOP_MS = 0.02
MOST_HOP_MS = 20.0
MOST_MESSAGE_MS = 3.0
ROUNDS = 10

_BEGIN_S = 2.0
_BETWEEN_SINGLES_S = 0.05
_BETWEEN_BURSTS_S = 1.0


def fitted_profile(times: ProbeTimes) -> MachineProfile:
    """The profile with which virtual probes take as long as the real ones did."""
    hop_ms, message_ms = times.single_ms / MESSAGES_OF_A_TASK / 2, 0.05
    for _ in range(ROUNDS):
        found = virtual_probes(profile_of(hop_ms, message_ms))
        single_off_ms = times.single_ms - found.single_ms
        burst_off_ms = times.burst_ms - found.burst_ms - single_off_ms
        hop_ms = min(MOST_HOP_MS, max(LEAST_HOP_MS, hop_ms + single_off_ms / MESSAGES_OF_A_TASK))
        # Half of a burst comes before a typical task of it, at each of its messages.
        step_ms = burst_off_ms / (BURST_TASKS / 2 * MESSAGES_OF_A_TASK)
        message_ms = min(MOST_MESSAGE_MS, max(0.0, message_ms + step_ms))
    return replace(profile_of(hop_ms, message_ms), timer_ms=times.timer_ms)


def profile_of(hop_ms: float, message_ms: float) -> MachineProfile:
    """A profile of these two figures."""
    return MachineProfile(hop_ms=hop_ms, hop_spread_ms=hop_ms / 2, message_ms=message_ms)


def virtual_probes(profile: MachineProfile) -> ProbeTimes:
    """What the probes take on such a machine."""
    bursts_s = _BEGIN_S + SINGLES * _BETWEEN_SINGLES_S
    trace = tuple((_BEGIN_S + place * _BETWEEN_SINGLES_S, 1) for place in range(SINGLES)) + tuple(
        (bursts_s + place * _BETWEEN_BURSTS_S, BURST_TASKS) for place in range(BURSTS)
    )
    duration_s = bursts_s + BURSTS * _BETWEEN_BURSTS_S
    scenario = Scenario(
        "probes",
        "",
        duration_s,
        1,
        "",
        (ModelUse("probe", run_ms=RUN_MS),),
        (NodeGroup("probe", NodeKindName.LIGHT, PROBES, slots=SLOTS),),
        (Load(LoadKind.TRACE, "probe", 0.0, duration_s, trace=trace),),
        (),
        Expectations(),
    )
    record = run_virtually(scenario, profile)
    latencies_ms = [task.latency_ms for task in record.tasks]
    singles = [one for one in latencies_ms[:SINGLES] if one is not None]
    bursts = [one for one in latencies_ms[SINGLES:] if one is not None]
    return ProbeTimes(median(singles), median(bursts))
