"""Fixtures of several files of unit tests."""

from pathlib import Path
from typing import Any

import pytest

from launcher import specfile


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "digits.py").write_text("class DigitsCNN: ...\ndef digits(split): ...\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def read(folder: Path) -> Any:
    def read(text: str, *overrides: str) -> specfile.Document:
        (folder / "job.yaml").write_text(text)
        return specfile.read(Path("job.yaml"), overrides=overrides)

    return read
