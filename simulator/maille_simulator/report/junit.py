"""Checks as JUnit XML, which every CI reads."""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from maille_simulator.report.record import RunRecord


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
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
