"""What the parent of ranks knows of them beside their reports."""

from pathlib import Path

from launcher.engines.rank_process import RankProcess


def test_the_last_lines_are_there_whatever_bytes_they_are(tmp_path: Path) -> None:
    log = tmp_path / "rank.log"
    log.write_bytes(b"\xff line\n" * 5000)
    rank = RankProcess(number=0, pid=0, report_fd=0, log=log)
    assert rank.last_lines().splitlines() == ["\ufffd line"] * 20
    assert RankProcess(number=0, pid=0, report_fd=0, log=tmp_path / "none").last_lines() == ""
