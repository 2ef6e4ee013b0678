"""A job's results as JUnit's XML, which every CI reads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from megaflow import Result
from megaflow_server.jobs.comparison import Comparison
from megaflow_server.jobs.datasets import Broken
from megaflow_server.jobs.table import Names, reward_of, sample_name

__all__ = ["junit", "write_comparison", "write_junit"]

# What XML 1.0 has no way to write.
_NEVER = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(name: str, results: Iterable[Result], broken: Iterable[Broken], names: Names) -> bytes:
    """One case for each sample: passed where the reward is above 0, failed where it is not, else an error."""
    suite = ElementTree.Element("testsuite", name=_text(name))
    tests = failures = errors = 0
    for result in sorted(results, key=lambda one: (one.index, one.sample)):
        tests += 1
        case = _case(suite, name, sample_name(result, names))
        reward = result.reward
        if not result.valid or reward is None:
            errors += 1
            _why(case, "error", result, "no result")
        elif reward <= 0:
            failures += 1
            _why(case, "failure", result, f"reward {reward_of(result)}")
        else:
            ElementTree.SubElement(case, "system-out").text = f"reward {reward_of(result)}"
    for one in broken:
        tests, errors = tests + 1, errors + 1
        case = _case(suite, name, one.name)
        ElementTree.SubElement(case, "error", type="broken task", message=_text(one.reason))
    suite.set("tests", str(tests))
    suite.set("failures", str(failures))
    suite.set("errors", str(errors))
    return _document(suite)


def write_junit(
    path: Path, name: str, results: Iterable[Result], broken: Iterable[Broken], names: Names
) -> None:
    """Write them to a file, whole or not at all."""
    _write(path, junit(name, results, broken, names))


def write_comparison(path: Path, name: str, found: Comparison) -> None:
    """A case for each task of a comparison, failed where its mean reward fell."""
    suite = ElementTree.Element("testsuite", name=_text(name))
    worse = {pair.name for pair in found.worse}
    for pair in found.pairs:
        case = _case(suite, name, pair.name)
        if pair.name in worse:
            said = f"{pair.difference:+.4g}{', flaky' if pair.flaky else ''}"
            ElementTree.SubElement(case, "failure", type="regression", message=said)
    for lacking in found.lacking:
        said = "no valid result in both jobs"
        ElementTree.SubElement(_case(suite, name, lacking), "skipped", message=said)
    suite.set("tests", str(len(found.pairs) + len(found.lacking)))
    suite.set("failures", str(len(worse)))
    suite.set("skipped", str(len(found.lacking)))
    _write(path, _document(suite))


def _document(suite: ElementTree.Element) -> bytes:
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _write(path: Path, content: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    new.replace(path)


def _case(suite: ElementTree.Element, job: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=_text(job), name=_text(name))


def _why(case: ElementTree.Element, kind: str, result: Result, said: str) -> None:
    failure = result.failure
    message = said if failure is None else f"{said}: {failure.reason}"
    type_ = failure.kind if failure else "reward" if result.valid else result.state
    why = ElementTree.SubElement(case, kind, type=_text(type_), message=_text(message))
    if failure is not None and failure.log:
        why.text = _text(failure.log)


def _text(text: str) -> str:
    return _NEVER.sub("\N{REPLACEMENT CHARACTER}", text)
