"""What the parent of ranks knows of them beside their reports."""

from pathlib import Path

from launcher.engines.rank_process import Progress, RankProcess


def test_the_last_lines_are_there_whatever_bytes_they_are(tmp_path: Path) -> None:
    log = tmp_path / "rank.log"
    log.write_bytes(b"\xff line\n" * 5000)
    rank = RankProcess(number=0, pid=0, report_fd=0, log=log)
    assert rank.last_lines().splitlines() == ["\ufffd line"] * 20
    assert RankProcess(number=0, pid=0, report_fd=0, log=tmp_path / "none").last_lines() == ""


def test_a_standstill_counts_from_the_last_beat_of_any_rank() -> None:
    progress = Progress(2)
    assert not progress.stalled(10.0, now=1e9)  # before the first beat, ranks are being set up
    progress.beat(1)
    assert not progress.stalled(10.0, now=1e9 + 5)
    assert not progress.stalled(10.0, now=1e9 + 14)
    assert progress.stalled(10.0, now=1e9 + 15)
    progress.beat(0)
    assert not progress.stalled(10.0, now=1e9 + 16)
    assert progress.counts() == (1, 1)
