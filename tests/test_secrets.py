"""Secrets are found by name, in the environment or in a file, and named when they are not."""

from pathlib import Path

import pytest

from launcher.errors import PreflightError
from launcher.resources import secrets_here
from launcher.resources.secrets import find_secrets


def test_a_secret_is_in_the_environment_or_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONE", "1")
    file = tmp_path / ".launcher" / "secrets" / "TWO"
    file.parent.mkdir(parents=True)
    file.write_text("2\n")
    found, missing = find_secrets(["ONE", "TWO", "THREE"], home=tmp_path)
    assert found == {"ONE": "1", "TWO": "2"}
    assert missing == ["THREE"]


def test_what_is_missing_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(PreflightError, match=r"NO_SUCH_KEY .* ~/.launcher/secrets/NAME"):
        secrets_here(["NO_SUCH_KEY"])
