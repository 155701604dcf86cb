"""Examine a broker in under ten seconds and say whether a mesh can live on it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from maille_broker.endpoint import Endpoint
from maille_broker.errors import BrokerConfigError, BrokerError
from maille_broker.probe_kit import Bench, Finding, Probe, Severity, new_token
from maille_broker.probes import PROBES
from maille_broker.running import is_loopback, try_login

Result = Literal["pass", "fail", "skip"]
Verdict = Literal["good", "usable", "unfit"]
# What takes longer than this has not worked.
PROBE_TIMEOUT_S = 3.5
# These disturb each other's measurement and run one after the other.
ALONE_FIRST = ("latency_qos0", "latency_qos1")
ALONE_LAST = ("burst_qos0", "burst_qos1")
# Nearly idle for seconds: starts first and runs beside all others.
SLOW = ("will_silence",)
SLOW_TIMEOUT_S = 8.0
LOGIN_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe found."""

    name: str
    meaning: str
    severity: Severity
    result: Result
    detail: str
    value: float | None
    unit: str

    def to_dict(self) -> dict[str, str | float | None]:
        """The result for JSON."""
        return {
            "name": self.name,
            "meaning": self.meaning,
            "severity": self.severity.value,
            "result": self.result,
            "detail": self.detail,
            "value": self.value,
            "unit": self.unit,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All results with the verdict.

    `good`: everything that Maille needs or profits from works. `usable`: what it needs works.
    `unfit`: something it needs does not.
    """

    url: str
    verdict: Verdict
    sentence: str
    results: tuple[ProbeResult, ...]
    elapsed_s: float

    def result(self, name: str) -> ProbeResult:
        """The result of one probe; KeyError for an unknown name."""
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(name)

    def to_dict(self) -> dict[str, object]:
        """The report for JSON."""
        return {
            "url": self.url,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "elapsed_s": round(self.elapsed_s, 2),
            "probes": [result.to_dict() for result in self.results],
        }


def judge(endpoint: Endpoint, results: tuple[ProbeResult, ...]) -> tuple[Verdict, str]:
    """The verdict with a sentence for a person."""
    failed = [result for result in results if result.result == "fail"]
    needed = [result for result in failed if result.severity is Severity.NEEDED]
    if needed:
        reasons = "; ".join(f"{result.name}: {result.detail}" for result in needed)
        return "unfit", (
            f"A mesh cannot work on this broker ({reasons}). "
            "Use another broker, for example: maille up --broker mosquitto."
        )
    matters = [result for result in failed if result.severity is Severity.MATTERS]
    local_only = {probe.name for probe in PROBES if probe.local_only}
    warning = ""
    if any(result.name in local_only for result in failed):
        warning = (
            " Keep it to this machine: on a network it would let strangers disturb or overhear "
            "devices."
            if is_loopback(endpoint.host)
            else " Do not leave it open to this network: strangers can disturb or overhear devices."
        )
    others = sum(1 for result in failed if result.severity is Severity.INFORMATIVE)
    note = (
        f" {others} more findings do not concern Maille, which never relies on the broker there."
        if others
        else ""
    )
    if matters:
        limits = "; ".join(f"{result.name}: {result.detail}" for result in matters)
        return "usable", f"A mesh works on this broker, with limits ({limits}).{warning}{note}"
    return "good", f"This broker is good for a mesh.{warning}{note}"


async def run_probes(
    endpoint: Endpoint,
    *,
    deadline_s: float = 10.0,
    on_result: Callable[[ProbeResult], None] | None = None,
) -> Report:
    """Examine a broker. Leaves no session and no retained message behind.

    Args:
        endpoint: with credentials that may use the topics below `maille/1/doctor`.
        deadline_s: ends in less; what has not answered by then has failed.
        on_result: called with each result as it comes.

    Raises:
        BrokerUnavailable: nothing answers there.
        BrokerRefused: the login is refused.
        BrokerConfigError: the deadline is too short, or the TLS settings cannot be used.
    """
    if deadline_s < 1:
        raise BrokerConfigError("The probes need at least 1 s. Give them up to 10 s.")
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    # Half a second for what is still open at the end to be tidied up.
    end_s = started_s + deadline_s - 0.5
    token = new_token()
    try:
        await try_login(endpoint, f"md{token}", timeout_s=min(LOGIN_TIMEOUT_S, deadline_s - 0.5))
    except BrokerError as error:
        if type(error) is not BrokerConfigError and endpoint.url not in str(error):
            raise type(error)(f"{endpoint.url} cannot be examined: {error}") from error
        raise
    found: dict[str, ProbeResult] = {}

    async def run(probe: Probe) -> None:
        limit_s = SLOW_TIMEOUT_S if probe.name in SLOW else PROBE_TIMEOUT_S
        limit_s = min(limit_s, end_s - loop.time())
        result = _result(probe, await _run_one(probe, Bench(endpoint, token, probe.name), limit_s))
        found[probe.name] = result
        if on_result is not None:
            on_result(result)

    by_name = {probe.name: probe for probe in PROBES}
    apart = {*ALONE_FIRST, *ALONE_LAST, *SLOW}
    async with asyncio.TaskGroup() as slow:
        for name in SLOW:
            slow.create_task(run(by_name[name]))
        for name in ALONE_FIRST:
            await run(by_name[name])
        async with asyncio.TaskGroup() as together:
            for probe in PROBES:
                if probe.name not in apart:
                    together.create_task(run(probe))
        for name in ALONE_LAST:
            await run(by_name[name])
    results = tuple(found[probe.name] for probe in PROBES)
    verdict, sentence = judge(endpoint, results)
    return Report(endpoint.url, verdict, sentence, results, loop.time() - started_s)


async def _run_one(probe: Probe, bench: Bench, limit_s: float) -> Finding:
    if limit_s <= 0:
        return Finding(False, "no time was left for it")
    try:
        async with asyncio.timeout(limit_s):
            return await probe.run(bench)
    except TimeoutError:
        return Finding(False, f"nothing came within {limit_s:.1f} s")
    except (ConnectionError, OSError) as error:
        return Finding(False, f"the connection failed: {error}")


def _result(probe: Probe, finding: Finding) -> ProbeResult:
    result: Result = "skip" if finding.passed is None else "pass" if finding.passed else "fail"
    return ProbeResult(
        probe.name,
        probe.meaning,
        probe.severity,
        result,
        finding.detail,
        finding.value,
        finding.unit,
    )
