"""Where the gateway listens, and who may connect there."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from megaflow.errors import InvalidArgument, Unavailable
from megaflow.transport.address import normalise, split_host_port
from megaflow.transport.loopback import is_loopback, numeric
from megaflow.transport.options import SERVER
from megaflow_server.gateway.auth import LOCAL, SESSIONS, Principal
from megaflow_server.gateway.authentication import AuthenticationInterceptor, Authenticator, Check
from megaflow_server.gateway.loopback import LoopbackToken
from megaflow_server.gateway.tls import Certificate
from megaflow_server.gateway.token_file import TokenFile
from megaflow_server.gateway.tokens import Tokens, new_token

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """Who may connect.

    Attributes:
        token_file: whose tokens callers over TCP show; None: one that the server makes for its own user.
        certificate: the server's, for all listeners but Unix sockets; None: these do without TLS.
        insecure: whether other machines may connect without TLS, because something else encrypts.
    """

    token_file: Path | None = None
    certificate: Certificate | None = None
    insecure: bool = False

    @classmethod
    def of(
        cls, token_file: Path | None, tls_cert: Path | None, tls_key: Path | None, insecure: bool
    ) -> Access:
        """From the options of `megaflow serve`. Raises InvalidArgument where these contradict each other."""
        if (tls_cert is None) != (tls_key is None):
            raise InvalidArgument("--tls-cert and --tls-key go together: a certificate and its key")
        if tls_cert is None or tls_key is None:
            return cls(token_file, None, insecure)
        if insecure:
            raise InvalidArgument("--insecure waives TLS, and --tls-cert asks for it: give one")
        return cls(token_file, Certificate(tls_cert, tls_key))

    def check(self, listen: Sequence[str]) -> None:
        """Raises InvalidArgument where a server cannot listen there: nothing is started for that yet."""
        targets = [self.target(address) for address in listen]
        if self.certificate is not None:
            if all(target.startswith("unix:") for target in targets):
                raise InvalidArgument(
                    f"--tls-cert {self.certificate.certificate} would serve nobody: Unix sockets do without TLS"
                )
            self.certificate.credentials()
        if self.token_file is not None:
            TokenFile(self.token_file).load()

    def target(self, address: str) -> str:
        """The gRPC target to listen at.

        Raises InvalidArgument for one that other machines could reach without what that takes.
        """
        target = normalise(address, name="listen")
        if target.startswith("unix:") or is_loopback(split_host_port(target, name="listen")[0]):
            return target if target.startswith("unix:") else numeric(target)
        missing = []
        if self.token_file is None:
            missing.append("--token-file FILE (`megaflow tokens create` makes it)")
        if self.certificate is None and not self.insecure:
            missing.append(
                "--tls-cert FILE and --tls-key FILE (or --insecure, where a mesh or a tunnel encrypts)"
            )
        if missing:
            raise InvalidArgument(
                f"listen={address!r}: other machines can connect there, which takes {' and '.join(missing)}; "
                "without these, listen at loopback (127.0.0.1, localhost, ::1) or unix:/path"
            )
        return target


def authenticator(access: Access) -> tuple[Authenticator, LoopbackToken | None]:
    """What knows the callers, and the token that this server made for its own user, if it did."""
    if access.token_file is not None:
        tokens = Tokens(TokenFile(access.token_file).load())
        way_out = "set $MEGAFLOW_TOKEN or token=…; whoever runs the server makes one with `megaflow tokens create`"
        return Authenticator(tokens, way_out=way_out), None
    token, text = new_token(LOCAL.name)
    way_out = (
        "this server on loopback leaves one for the programs of its own user ($XDG_RUNTIME_DIR, else the "
        "temporary folder; both must be the same for client and server). For other users start it with "
        "--token-file, and set $MEGAFLOW_TOKEN or token=…"
    )
    return Authenticator(Tokens([token]), way_out=way_out), LoopbackToken(text)


def _worth_telling(record: logging.LogRecord) -> bool:
    """False for what gRPC logs, with a traceback, of every call whose caller has left before its answer."""
    return not (record.exc_info and isinstance(record.exc_info[1], grpc.aio.InternalError))


class Listeners:
    """The gRPC server and its addresses.

    Args:
        check: see `AuthenticationInterceptor`.

    Attributes:
        addresses: what clients may write as server=, once it is started.
    """

    def __init__(self, access: Access, check: Check) -> None:
        self._access = access
        self._authenticator, self._loopback = authenticator(access)
        self.addresses: list[str] = []
        logging.getLogger("grpc._cython.cygrpc").addFilter(_worth_telling)
        self.server = grpc.aio.server(
            interceptors=[AuthenticationInterceptor(self._authenticator, check)], options=SERVER
        )

    @property
    def token_files(self) -> list[Path]:
        """Where the token for programs of this server's own user is."""
        return [] if self._loopback is None else self._loopback.files

    def principal(self, token: str) -> Principal:
        """Whose token this is. Raises Unauthenticated."""
        return self._authenticator.tokens.principal(token)

    def holders(self) -> frozenset[str]:
        """The principals that may have sessions: those with a token for that, and whoever needs none."""
        return self._authenticator.tokens.holders(SESSIONS) | {LOCAL.name}

    async def start(self, listen: Sequence[str]) -> None:
        """Listens at these addresses; services have been added to `server` before."""
        certificate = self._access.certificate
        credentials = certificate.credentials() if certificate else None
        # The socket files of listeners are for this user alone.
        umask = os.umask(0o077)
        try:
            for address in listen:
                target = self._access.target(address)
                self.addresses.append(_bind(self.server, target, credentials))
            if self._loopback is not None:
                self._loopback.publish(
                    address for address in self.addresses if not address.startswith("unix:")
                )
            await self.server.start()
        finally:
            os.umask(umask)

    def reload(self) -> None:
        """Reads the token file again; one that is broken leaves the tokens as they are, and is logged."""
        if self._access.token_file is None:
            return
        try:
            tokens = TokenFile(self._access.token_file).load()
        except InvalidArgument as error:
            logger.error("the tokens stay as they were: %s", error.message)
            return
        self._authenticator.tokens = self._authenticator.tokens.replaced(tokens)
        logger.info("read %d tokens from %s", len(tokens), self._access.token_file)

    async def stop(self, grace: float | None) -> None:
        """Takes no calls any more, gives running ones so many seconds, then ends them. Idempotent."""
        # First: once the port is free, a file of this name may be another server's.
        if self._loopback is not None:
            self._loopback.withdraw()
        await self.server.stop(grace)


def _bind(server: grpc.aio.Server, target: str, credentials: grpc.ServerCredentials | None) -> str:
    """Binds a target: the address that it got."""
    unix = target.startswith("unix:")
    if unix:
        _remove_stale(Path(target.removeprefix("unix:")))
    try:
        if unix or credentials is None:
            port = server.add_insecure_port(target)
        else:
            port = server.add_secure_port(target, credentials)
    except RuntimeError as error:
        raise Unavailable(
            f"listen={target!r}: cannot be bound; another process may use it already, or the folder may "
            "be missing or not writable"
        ) from error
    return target if unix else f"{target.rpartition(':')[0]}:{port}"


def _remove_stale(path: Path) -> None:
    """Removes a socket file that nobody listens at any more, as a killed server leaves one.

    Raises Unavailable where somebody does: gRPC would take the file over without a word.
    """
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise Unavailable(
                f"listen='unix:{path}': the socket that is there cannot be tried: {error}"
            ) from error
    raise Unavailable(
        f"listen='unix:{path}': another process listens there; end it, or choose another path"
    )
