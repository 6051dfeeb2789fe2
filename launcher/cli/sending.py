"""What would be sent to a cluster, for people and for programs; which files go is `packing`'s."""

from typing import Any

from launcher.packing import Upload, file_text, size_text

_LARGEST_SHOWN = 5


def upload_text(upload: Upload) -> str:
    """How much goes, and the largest of it; or why nothing does."""
    if upload.refusal:
        return f"submit would refuse: {upload.refusal}"
    total = f"submit would send {len(upload.files)} files of {size_text(upload.size_bytes)}"
    return "\n".join([f"{total}; the largest:", *map(file_text, upload.largest(_LARGEST_SHOWN))])


def described(upload: Upload) -> dict[str, Any]:
    """The same as values. A folder that is refused was counted as far as was needed for that."""
    return {
        "files": len(upload.files),
        "bytes": upload.size_bytes,
        "largest": [
            {"name": packed.name, "bytes": packed.size_bytes}
            for packed in upload.largest(_LARGEST_SHOWN)
        ],
        "refused": upload.refusal,
    }
