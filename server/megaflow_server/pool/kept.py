"""One instance of a pool from its creation to its end: what it was like when fresh, and whether it is again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from megaflow_server.pool.host import Files, Host
from megaflow_server.pool.probe import Look, differences, look, run_all
from megaflow_server.sandbox.sandbox import AsyncSandbox
from megaflow_server.templates import Template

__all__ = ["Kept"]


class Kept:
    """An instance that is lent to one session after the other.

    Attributes:
        sandbox: open in it, for whoever has it now; each session gets a new one.
    """

    def __init__(self, host: Host, template: Template) -> None:
        self.host = host
        self.sandbox: AsyncSandbox = host.open()
        self._template = template
        self._fresh: Look | None = None

    async def settle(self, *, compares: bool) -> None:
        """Have its stream at hand, and where it is to be used again, remember what it is like."""
        if compares:
            self._fresh = await look(self.host, self.sandbox)
        else:
            await self.sandbox.exec(":")

    async def reset(self, original: Callable[[Sequence[str]], Awaitable[Files]]) -> str | None:
        """Run the template's reset and probe; how it differs from a fresh one then, or None.

        Args:
            original: what is at paths of an instance that nobody has used.
        """
        if self._fresh is None:
            return "what it was like when it was fresh is not known"
        await self.sandbox.close()
        self.sandbox = self.host.open()
        await self.sandbox.exec(":")
        template = self._template
        fault = await run_all(self.sandbox, [*template.reset, *template.probe.commands])
        return fault or await differences(self._fresh, self.host, self.sandbox, template, original)
