"""What a verifier came to: rewards by name, or why there are none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megaflow.errors import NotFound
from megaflow.sandbox import Sandbox

__all__ = ["HEADLINE", "NOBODYS", "Verdict", "VerifierFailed", "read_rewards", "require_evidence"]

# The name of the reward that is the step's.
HEADLINE = "reward"
# What a verifier's programs are told, since the home folder that they have is the agent's: not to take their modules
# from there.
NOBODYS = {"PYTHONNOUSERSITE": "1"}
# Bytes of a reward file, and of a report.
_REWARD_MOST = 1 << 16
_REPORT_MOST = 32 << 20


class VerifierFailed(Exception):
    """A verifier could not do its work, so that there is no reward: not 0, none.

    Attributes:
        reason: what was missing.
        log_tail: the last that the verifier wrote.
    """

    def __init__(self, reason: str, log_tail: str = "") -> None:
        super().__init__(reason + (f"\nThe verifier's last lines:\n{log_tail}" if log_tail else ""))
        self.reason = reason
        self.log_tail = log_tail


@dataclass(frozen=True)
class Verdict:
    """The outcome of an episode.

    Attributes:
        rewards: by name, "reward" among them; empty where the verifier failed.
        failure: why there are none.
    """

    rewards: Mapping[str, float]
    failure: VerifierFailed | None = None

    @property
    def reward(self) -> float:
        """The headline; nan where there is none, with which no sum comes to a number."""
        return self.rewards.get(HEADLINE, math.nan)

    def info(self) -> dict[str, Any]:
        """What the last step's info says."""
        if self.failure is None:
            return {"valid": True, "rewards": dict(self.rewards)}
        failure = {
            "kind": "verifier",
            "phase": "verifier",
            "reason": self.failure.reason,
            "log_tail": self.failure.log_tail,
        }
        return {"valid": False, "rewards": {}, "failure": failure}


def read_rewards(sandbox: Sandbox, folder: str, user: str | None) -> Mapping[str, float]:
    """What `reward.json` or `reward.txt` in a folder of the sandbox says, `reward` first among them.

    Raises:
        VerifierFailed: neither is there, or says no number.
    """
    for name, parse in (("reward.json", _from_json), ("reward.txt", _from_text)):
        try:
            data = sandbox.read_file(f"{folder}/{name}", user=user, limit=_REWARD_MOST)
        except NotFound:
            continue
        return _checked(parse(data.decode("utf-8", "replace"), name), name)
    raise VerifierFailed(f"it left neither {folder}/reward.txt nor {folder}/reward.json")


def require_evidence(sandbox: Sandbox, path: str, user: str | None) -> None:
    """Raise VerifierFailed for a report that is absent, is empty, or has no test in it.

    A JSON file must be one; of a CTRF report (`results.summary.tests`) the number of tests is looked at.
    """
    try:
        data = sandbox.read_file(path, user=user, limit=_REPORT_MOST)
    except NotFound:
        raise VerifierFailed(
            f"its report {path} is absent, without which no verdict counts"
        ) from None
    if not data.strip():
        raise VerifierFailed(f"its report {path} is empty")
    if not path.endswith(".json"):
        return
    try:
        report = json.loads(data)
    except ValueError as error:
        raise VerifierFailed(f"its report {path} is no JSON: {error}") from None
    results = report.get("results") if isinstance(report, dict) else None
    summary = results.get("summary") if isinstance(results, dict) else None
    if isinstance(summary, dict) and not summary.get("tests"):
        raise VerifierFailed(f"its report {path} has no test in it")


def _from_text(text: str, name: str) -> Mapping[str, object]:
    try:
        return {HEADLINE: float(text.strip())}
    except ValueError:
        raise VerifierFailed(f"{name} says {text.strip()[:80]!r}, which is no number") from None


def _from_json(text: str, name: str) -> Mapping[str, object]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise VerifierFailed(f"{name} is no JSON: {error}") from None
    if not isinstance(value, dict):
        return {HEADLINE: value}
    if HEADLINE not in value and len(value) != 1:
        raise VerifierFailed(
            f"{name} has {len(value)} rewards, and none of them is called {HEADLINE!r}"
        )
    return {HEADLINE: next(iter(value.values())), **value}


def _checked(rewards: Mapping[str, object], name: str) -> Mapping[str, float]:
    for key, value in rewards.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise VerifierFailed(f"{name}: {key} = {value!r} is no finite number")
    return {key: float(value) for key, value in rewards.items()}  # type: ignore[arg-type]
