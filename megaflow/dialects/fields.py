"""Reading JSON objects of others: each field by name and type, and what is left over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from megaflow.errors import InvalidArgument

__all__ = ["Fields", "objects"]


class Fields:
    """A JSON object that is read field by field; errors name the path and what stands there.

    A field that is null counts as absent.
    """

    def __init__(self, raw: object, path: str = "") -> None:
        if not isinstance(raw, Mapping):
            raise InvalidArgument(f"{path or 'the body'}: expected an object, got {_shown(raw)}")
        self._left = {key: value for key, value in raw.items() if value is not None}
        self._path = path

    def path(self, name: str) -> str:
        """What errors call the field."""
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str) -> Any:
        """The field as it is, or None."""
        return self._left.pop(name, None)

    def _typed(self, name: str, kinds: tuple[type, ...], what: str) -> Any:
        value = self.take(name)
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if value is not None and wrong:
            raise InvalidArgument(f"{self.path(name)}: expected {what}, got {_shown(value)}")
        return value

    def text(self, name: str) -> str | None:
        """A string, or None."""
        value: str | None = self._typed(name, (str,), "a string")
        return value

    def need_text(self, name: str) -> str:
        """A string that must be there."""
        value = self.text(name)
        if value is None:
            raise InvalidArgument(f"{self.path(name)}: is missing; expected a string")
        return value

    def integer(self, name: str) -> int | None:
        """An integer, or None."""
        value: int | None = self._typed(name, (int,), "an integer")
        return value

    def number(self, name: str) -> float | None:
        """A number, or None."""
        value: float | None = self._typed(name, (int, float), "a number")
        return value

    def flag(self, name: str) -> bool | None:
        """A boolean, or None."""
        value: bool | None = self._typed(name, (bool,), "true or false")
        return value

    def mapping(self, name: str) -> dict[str, Any] | None:
        """An object, or None."""
        value: dict[str, Any] | None = self._typed(name, (dict,), "an object")
        return value

    def items(self, name: str) -> list[Any]:
        """A list; empty where the field is absent."""
        return self._typed(name, (list,), "a list") or []

    def drop(self, names: Collection[str]) -> None:
        """Take fields that mean nothing here."""
        for name in names:
            self._left.pop(name, None)

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """InvalidArgument with its reason for the first of these that is there."""
        for name, reason in reasons.items():
            if name in self._left:
                raise InvalidArgument(f"{self.path(name)}: {reason}")

    def rest(self) -> dict[str, Any]:
        """All that was not taken."""
        left, self._left = self._left, {}
        return left

    def done(self, hint: str = "") -> None:
        """InvalidArgument where something was not taken."""
        if self._left:
            name = sorted(self._left)[0]
            raise InvalidArgument(f"{self.path(name)}: is not known here" + (hint and f"; {hint}"))


def objects(raw: list[Any], path: str) -> list[Fields]:
    """The objects of a list."""
    return [Fields(each, f"{path}[{i}]") for i, each in enumerate(raw)]


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
