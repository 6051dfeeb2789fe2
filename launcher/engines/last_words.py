"""What a person must see of the log of a rank that died: its last lines, or where it stood."""

import re
from pathlib import Path

_LINES = 20
_BYTES = 65_536
_STACK = re.compile(
    r"^(?:Fatal Python error: .*\n\n)?"
    r"Current thread .*\(most recent call first\):\n(?:  File .*\n?)+",
    re.MULTILINE,
)
"""As faulthandler writes it: innermost frame first."""
_OURS = re.escape(f"{Path(__file__).parents[1]}/")
_FRAMEWORK = re.compile(rf'  File "(?:{_OURS}|<frozen |[^"]*/torch/nn/modules/)')
_AFTER_A_STACK = ("  ", "Thread ", "Extension modules")
"""How lines begin that faulthandler writes behind it."""


def last_words(log: Path) -> str:
    """At most 20 lines; empty where there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    stacks = list(_STACK.finditer(text))
    if stacks and not _says_more(text[stacks[-1].end() :]):
        frames = [line for line in stacks[-1][0].splitlines() if not _FRAMEWORK.match(line)]
        return "\n".join(frames[:_LINES])
    return "\n".join(text.splitlines()[-_LINES:])


def _says_more(rest: str) -> bool:
    """Whether the rank went on to print something of its own."""
    return any(line and not line.startswith(_AFTER_A_STACK) for line in rest.splitlines())
