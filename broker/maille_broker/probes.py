"""The table of all probes: what is asked of a broker and what each answer means for a mesh."""

from maille_broker import probe_sessions, probe_traffic
from maille_broker.probe_kit import Probe, Severity

_NEEDED, _MATTERS, _INFORMATIVE = Severity.NEEDED, Severity.MATTERS, Severity.INFORMATIVE

PROBES: tuple[Probe, ...] = (
    Probe(
        "latency_qos0",
        "Every task waits for at least one such round trip.",
        _MATTERS,
        probe_traffic.latency_qos0,
    ),
    Probe(
        "latency_qos1",
        "A broker without TCP_NODELAY adds 40 ms to each acknowledged message.",
        _MATTERS,
        probe_traffic.latency_qos1,
    ),
    Probe(
        "wildcards",
        "The coordinator hears all nodes through filters with wildcards.",
        _NEEDED,
        probe_traffic.wildcards,
    ),
    Probe(
        "size_48_kib",
        "Inputs, results and chunks of models are up to 48 KiB in one message.",
        _NEEDED,
        probe_traffic.size_48_kib,
    ),
    Probe(
        "reconnect",
        "A node that lost its connection must be back with its subscriptions at once.",
        _NEEDED,
        probe_traffic.reconnect,
    ),
    Probe(
        "order",
        "Tokens of a language model arrive in order; gaps cost a repeat.",
        _MATTERS,
        probe_traffic.order,
    ),
    Probe(
        "burst_qos0",
        "A burst of tasks must not be thinned out; lost ones are repeated after a time-out.",
        _MATTERS,
        probe_traffic.burst_qos0,
    ),
    Probe(
        "wrong_password",
        "Someone without the password must not be able to disturb a device.",
        _MATTERS,
        probe_sessions.wrong_password,
        local_only=True,
    ),
    Probe(
        "retained_leak",
        "A device must not see messages that were meant for others.",
        _MATTERS,
        probe_sessions.retained_leak,
        local_only=True,
    ),
    Probe(
        "retained",
        "A new client learns at once which coordinator and nodes are there.",
        _MATTERS,
        probe_sessions.retained,
    ),
    Probe(
        "takeover_clean",
        "A device that comes back replaces its own dead connection.",
        _MATTERS,
        probe_sessions.takeover_clean,
    ),
    Probe(
        "will_socket",
        "A node whose program ends is noticed at once instead of after its heartbeat.",
        _MATTERS,
        probe_sessions.will_socket,
    ),
    Probe(
        "will_silence",
        "The broker notices a device that lost power; Maille's heartbeats do so anyway.",
        _INFORMATIVE,
        probe_sessions.will_silence,
    ),
    Probe(
        "takeover_persistent",
        "Maille uses clean sessions only, so this concerns other programs on the broker.",
        _INFORMATIVE,
        probe_sessions.takeover_persistent,
    ),
    Probe(
        "queued_flag",
        "Maille leaves nothing queued in a broker, so this concerns other programs.",
        _INFORMATIVE,
        probe_sessions.queued_flag,
    ),
    Probe(
        "redelivery",
        "Maille repeats lost messages itself, so this concerns other programs.",
        _INFORMATIVE,
        probe_sessions.redelivery,
    ),
    Probe(
        "qos_downgrade",
        "A broker that raises the quality of service costs an acknowledgement each message.",
        _INFORMATIVE,
        probe_sessions.qos_downgrade,
    ),
    Probe(
        "size_1_mib",
        "Maille never sends more than 48 KiB, so this concerns other programs.",
        _INFORMATIVE,
        probe_traffic.size_1_mib,
    ),
    Probe(
        "burst_qos1",
        "Maille sends QoS 1 only where it also repeats, so this concerns other programs.",
        _INFORMATIVE,
        probe_traffic.burst_qos1,
    ),
)
