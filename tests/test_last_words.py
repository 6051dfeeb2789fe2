"""What is shown of the log of a rank that died."""

from pathlib import Path

from launcher.engines import last_words as module
from launcher.engines.last_words import last_words

OURS = Path(module.__file__)
DUMP = f"""step 1
Fatal Python error: Segmentation fault

Current thread 0x00007f (most recent call first):
  File "/home/me/model.py", line 15 in forward
  File "/venv/torch/nn/modules/module.py", line 1794 in _call_impl
  File "/home/me/model.py", line 9 in outer
  File "{OURS}", line 3 in train
  File "<frozen runpy>", line 88 in _run_code

Thread 0x00008f (most recent call first):
  File "/usr/lib/threading.py", line 1 in wait

Extension modules: numpy (total: 1)
"""


def write(folder: Path, content: bytes) -> Path:
    log = folder / "rank.log"
    log.write_bytes(content)
    return log


def test_the_last_lines_are_shown_whatever_bytes_they_are(tmp_path: Path) -> None:
    log = write(tmp_path, b"\xff line\n" * 5000)
    assert last_words(log).splitlines() == ["\ufffd line"] * 20
    assert last_words(tmp_path / "none") == ""


def test_of_a_crash_or_a_hang_the_users_innermost_frames_are_shown(tmp_path: Path) -> None:
    assert last_words(write(tmp_path, DUMP.encode())).splitlines() == [
        "Fatal Python error: Segmentation fault",
        "",
        "Current thread 0x00007f (most recent call first):",
        '  File "/home/me/model.py", line 15 in forward',
        '  File "/home/me/model.py", line 9 in outer',
    ]


def test_a_stack_that_was_asked_for_long_before_the_end_is_not_the_end(tmp_path: Path) -> None:
    log = write(tmp_path, (DUMP + "step 2\nKilled\n").encode())
    assert last_words(log).splitlines()[-2:] == ["step 2", "Killed"]
