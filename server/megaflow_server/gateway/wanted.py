"""What shards want of sandboxes: as templates, whose images are at hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow.protocol import megaflow_pb2 as pb
from megaflow.sandbox_request import SandboxRequest, from_value
from megaflow_server.gateway.records import Deadline
from megaflow_server.images import OnDemand
from megaflow_server.pool.leased import Lender
from megaflow_server.requested import PROFILES, Most, template_of
from megaflow_server.templates import Mode, Template

__all__ = ["Wanted"]


class Wanted:
    """Makes templates of requests.

    Args:
        contained: whether workers are in containers, which see no sandbox's socket.
        images: builds those that are not there.
        most: what requests that name no template may ask for.
    """

    def __init__(
        self,
        lender: Lender,
        templates: Mapping[str, Template],
        *,
        contained: bool,
        images: OnDemand | None = None,
        most: Most = PROFILES,
    ) -> None:
        self._lender = lender
        self._templates = templates
        self._contained = contained
        self._images = images or OnDemand()
        self._most = most

    async def templates(
        self,
        wanted: Sequence[pb.WantedSandbox],
        deadline: Deadline,
        check: Callable[[Sequence[Template]], None] = lambda _: None,
        mode: Mode = "auto",
    ) -> list[Template]:
        """What sandboxes are to be like, in this order, once their images are at hand; see `lend`.

        Args:
            check: looks at them before any image is built.
            mode: how they are used, whatever their templates say; "auto": as these say.
        """
        if self._contained:
            raise FailedPrecondition(
                "this environment asks for a sandbox, and workers in containers reach none; start the server "
                "without --worker-image"
            )
        requests = [await asyncio.to_thread(_request, one) for one in wanted]
        templates = [
            self._template(one.parameter, request).used(mode)
            for one, request in zip(wanted, requests, strict=True)
        ]
        check(templates)
        for template in templates:
            self._lender.check(template)
        for request in {one.image: one for one in requests}.values():
            await self._have_image(request, deadline)
        return templates

    def _template(self, parameter: str, request: SandboxRequest) -> Template:
        try:
            return template_of(
                request, self._templates, profile_of=self._lender.profile, most=self._most
            )
        except InvalidArgument as error:
            raise InvalidArgument(f"{parameter}: {error.message}") from error

    async def _have_image(self, request: SandboxRequest, deadline: Deadline) -> None:
        try:
            async with deadline.timeout():
                await self._images.have(request)
        except TimeoutError:
            raise deadline.exceeded(
                f"image {request.image} is still being built ({self._images.step(request)}), and goes on being "
                "built: make the environment again, or build images before with `megaflow images build TASKS`"
            ) from None

    async def stop(self) -> None:
        """Build nothing any more."""
        await self._images.close()


def _request(wanted: pb.WantedSandbox) -> SandboxRequest:
    # Most gateways lend nothing, and start without numpy.
    from megaflow.protocol import values

    try:
        return from_value(values.decode(wanted.request, path=wanted.parameter))
    except InvalidArgument as error:
        raise InvalidArgument(f"{wanted.parameter}: {error.message}") from error
