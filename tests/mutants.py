"""Planted bugs: a function whose text is changed at one place, for as long as a block lasts."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

__all__ = ["Mutant", "planted"]


class Mutant(NamedTuple):
    """Attributes:
    function: whose text is changed.
    before, after: the text, which is there once, and what stands in its place.
    """

    function: Callable[..., Any]
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.function.__qualname__}: {self.before} -> {self.after}"


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """The function does what the changed text says, however it was imported."""
    function: Any = inspect.unwrap(mutant.function)
    text = textwrap.dedent(inspect.getsource(function))
    assert text.count(mutant.before) == 1, mutant
    names: dict[str, Any] = {}
    exec(  # the text is our own
        compile(
            "from __future__ import annotations\n" + text.replace(mutant.before, mutant.after),
            "mutant",
            "exec",
        ),
        function.__globals__ | {"__name__": "mutant"},
        names,
    )
    made = inspect.unwrap(names[function.__name__])
    code = function.__code__
    function.__code__ = made.__code__.replace(co_freevars=code.co_freevars)
    try:
        yield
    finally:
        function.__code__ = code
