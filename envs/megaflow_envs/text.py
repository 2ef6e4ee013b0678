r"""What commands write, as members of a gymnasium Text space.

A space lists its characters: those of the scripts that terminals mostly show are there as they are, and any
other is shown by its escape, such as \u4e2d or \x1b, so that nothing is lost.
"""

from __future__ import annotations

from gymnasium.spaces import Text

from megaflow.sandbox import ExecResult

__all__ = [
    "CHARACTERS",
    "LONGEST_COMMAND",
    "capped",
    "command_space",
    "observed",
    "output_space",
    "shown",
]

# A sandbox takes 128 KiB as one command; characters of up to four bytes.
LONGEST_COMMAND = 32_000
# What the notice of a cut, and of how a command ended, adds to an observation.
_NOTICE = 300

# Code points, both included: ASCII, Latin, Greek, Cyrillic, punctuation, currency, arrows, operators, boxes, symbols.
_RANGES = (
    *((0x20, 0x7E), (0xA0, 0x17F), (0x370, 0x377), (0x384, 0x38A), (0x38E, 0x3A1), (0x3A3, 0x45F)),
    *((0x2010, 0x2027), (0x2030, 0x205E), (0x20A0, 0x20BF), (0x2190, 0x21FF), (0x2200, 0x22FF)),
    *((0x2500, 0x25FF), (0x2713, 0x2718), (0xFFFD, 0xFFFD)),
)
CHARACTERS = "\t\n\r" + "".join(
    chr(one) for first, last in _RANGES for one in range(first, last + 1)
)
_SHOWN = frozenset(CHARACTERS)


def command_space() -> Text:
    """Shell commands: a sandbox takes any text, of which samples use these characters."""
    return Text(max_length=LONGEST_COMMAND, min_length=0, charset=CHARACTERS)


def output_space(limit: int, *texts: str) -> Text:
    """Outputs of `limit` characters, and longer texts that are shown whole."""
    longest = max([limit, *map(len, texts)])
    return Text(max_length=longest + _NOTICE, min_length=0, charset=CHARACTERS)


def shown(text: str) -> str:
    """The text with escapes for the characters that the spaces do not have."""
    return "".join(one if one in _SHOWN else _escape(one) for one in text)


def capped(text: str, limit: int) -> str:
    """The beginning and the end of a text that has over `limit` characters, and how many are left out."""
    if len(text) <= limit:
        return text
    head = limit // 2
    tail = text[len(text) - (limit - head) :]
    return f"{text[:head]}\n[{len(text) - limit} characters left out]\n{tail}"


def observed(result: ExecResult, limit: int, notice: str = "") -> str:
    """What a command wrote, standard output first, and how it ended where that is not 0."""
    parts = [result.stdout.text, result.stderr.text]
    text = "\n".join(part.removesuffix("\n") for part in parts if part)
    endings = [f"[exit code {result.exit_code}]"] if result.exit_code else []
    endings += [notice] if notice else []
    return "\n".join([*([capped(shown(text), limit)] if text else []), *endings])


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
