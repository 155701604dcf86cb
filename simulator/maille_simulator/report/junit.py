"""Checks as JUnit XML, which every CI reads."""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from maille_simulator.report.record import RunRecord
from maille_simulator.virtual.campaign import SeedFailure


def junit_xml(records: Sequence[RunRecord]) -> str:
    """One suite a run, one case an expectation."""
    root = ET.Element("testsuites")
    for record in records:
        checks = record.checks()
        suite = ET.SubElement(
            root,
            "testsuite",
            name=f"{record.scenario.name} ({record.mode})",
            tests=str(len(checks)),
            failures=str(sum(not check.held for check in checks)),
            time=f"{record.took_s:.3f}",
        )
        for check in checks:
            case = ET.SubElement(suite, "testcase", classname=record.scenario.name, name=check.name)
            if not check.held:
                text = f"wanted {check.wanted}, found {check.found}"
                ET.SubElement(case, "failure", message=text)
    return _text(root)


def chaos_junit_xml(
    first: int, seeds: int, failures: Sequence[SeedFailure], smallest: str, took_s: float
) -> str:
    """One suite, one case a seed that broke a promise, and one for all others.

    Args:
        first: the first seed.
        seeds: how many were run.
        failures: those that broke a promise.
        smallest: the first of them made small, for people.
        took_s: how long all took.
    """
    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root,
        "testsuite",
        name="chaos (virtual)",
        tests=str(len(failures) + 1),
        failures=str(len(failures)),
        time=f"{took_s:.3f}",
    )
    held = f"{seeds - len(failures)} of {seeds} seeds from {first}"
    ET.SubElement(suite, "testcase", classname="chaos", name=held)
    for failure in failures:
        case = ET.SubElement(
            suite, "testcase", classname="chaos", name=f"seed {failure.seed}: {failure.promise}"
        )
        ET.SubElement(case, "failure", message=failure.text)
    if smallest:
        ET.SubElement(suite, "system-out").text = smallest
    return _text(root)


def _text(root: ET.Element) -> str:
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
