"""How an environment's sandbox comes to be as it was when its first episode began."""

from __future__ import annotations

from typing import Protocol

from megaflow.errors import FailedPrecondition
from megaflow.sandbox import OUTPUT_LIMIT, Sandbox

__all__ = ["Once", "Start", "start_of"]

_SECONDS = 120.0
_LIST_MOST = 8 * OUTPUT_LIMIT
# What the sandbox's user owns, outside of what is shown of its host and without the sandbox's own folder.
_OWN = r"""
user=$(id -u)
own() {
  for one in /* /.[!.]* /..?* /dev/shm; do
    case $one in
    /usr | /bin | /sbin | /lib | /lib32 | /lib64 | /libx32 | /etc | /opt | /proc | /sys | /dev) continue ;;
    esac
    [ -e "$one" ] || [ -L "$one" ] || continue
    find "$one" -name '.megaflow-*' -prune -o -user "$user" "$@" -print0
  done
}
"""
_FOLDERS = _OWN + "own -type d"
_FILES = _OWN + "own ! -type d"
_CONTENTS = _FILES.replace("! -type d", "-type f | xargs -0 cksum") + " 2>&1"
# A folder that its owner may not enter hides what is in it.
_OPEN = _OWN + r"own -type d ! -perm -700 -exec chmod u+rwx {} \; >/dev/null 2>&1; true"
_REMOVE = 'xargs -0 rm -rf -- <"$LIST"; code=$?; rm -f "$LIST"; exit "$code"'
_MAKE = 'xargs -0 mkdir -p -- <"$LIST"; code=$?; rm -f "$LIST"; exit "$code"'


class Start(Protocol):
    """Where each episode begins."""

    def keep(self) -> None:
        """The sandbox is set up: this is where later episodes begin."""

    def go_back(self) -> bool:
        """Be there again; False where it is to be set up again, too.

        Raises:
            FailedPrecondition: this sandbox cannot.
        """


class _Again:
    """By a snapshot, of which a new instance is made; where there are none, by cleaning up.

    Args:
        cleaning: None where more may be changed than can be cleaned up.
    """

    def __init__(self, sandbox: Sandbox, cleaning: _Cleaning | None) -> None:
        self._sandbox = sandbox
        self._cleaning = cleaning
        self._snapshot = self._why = ""

    def keep(self) -> None:
        try:
            self._snapshot = self._sandbox.snapshot()
        except FailedPrecondition as error:  # which matters only where there is a second episode
            self._why = error.message

    def go_back(self) -> bool:
        if self._snapshot:
            self._sandbox.restore(self._snapshot)
            return True
        if self._cleaning is None:
            raise _cannot(self._why)
        self._cleaning.clean()
        return False


class _Cleaning:
    """Removes what was not there at first, in a sandbox whose system is read-only and whose processes have ended."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._folders = self._list(_FOLDERS)
        self._files = self._list(_FILES)
        self._contents = self._look(_CONTENTS)

    def clean(self) -> None:
        """Raises FailedPrecondition where something is not as it was after it."""
        self._sandbox.exec(_OPEN, timeout=_SECONDS)
        self._apply(_REMOVE, self._list(_FILES) - self._files)
        self._apply(_REMOVE, self._list(_FOLDERS) - self._folders)
        self._apply(_MAKE, self._folders - self._list(_FOLDERS))
        left = (self._list(_FILES) | self._list(_FOLDERS)) ^ (self._files | self._folders)
        if left:
            raise _cannot(", ".join(sorted(path.decode("utf-8", "replace") for path in left)[:3]))
        if self._look(_CONTENTS) != self._contents:
            raise _cannot("files that were there have other contents")

    def _list(self, command: str) -> frozenset[bytes]:
        return frozenset(self._look(command).split(b"\0")) - {b""}

    def _look(self, command: str) -> bytes:
        done = self._sandbox.exec(command, timeout=_SECONDS, output_limit=_LIST_MOST)
        if done.stdout.omitted or done.timed_out:
            raise _cannot("it has too many files")
        return bytes(done.stdout)

    def _apply(self, command: str, paths: frozenset[bytes]) -> None:
        if not paths:
            return
        # In a folder that is not looked at.
        place = "/tmp/.megaflow-list"
        self._sandbox.exec('rm -rf -- "$LIST"', env={"LIST": place}, timeout=_SECONDS)
        self._sandbox.write_file(place, b"\0".join(sorted(paths)))
        self._sandbox.exec(command, env={"LIST": place}, timeout=_SECONDS)


class Once:
    """Not at all: a second episode takes another environment."""

    def __init__(self, why: str) -> None:
        self._why = why

    def keep(self) -> None:
        """There is no later episode."""

    def go_back(self) -> bool:
        raise FailedPrecondition(f"this environment has one episode: {self._why}; make it anew")


def start_of(sandbox: Sandbox, *, restartable: bool) -> Start:
    """How the episodes of a fresh sandbox begin, before it is set up."""
    if not restartable:
        return Once("restartable=False")
    writable = sandbox.exec("[ -w /usr ] || [ -w /etc ]").exit_code == 0
    return _Again(sandbox, None if writable else _Cleaning(sandbox))


def _cannot(why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the sandbox cannot be made as it was at first: {why}; make the environment anew"
    )
