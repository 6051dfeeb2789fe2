"""A server that speaks S3, in a process of its own, and a bucket in it."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import boto3
import fsspec
from botocore.exceptions import BotoCoreError

from tests.job import eventually

BUCKET = "lab-runs"


@dataclass(frozen=True)
class Server:
    """A server that is up."""

    process: "subprocess.Popen[bytes]"
    environment: Mapping[str, str]
    """With which any client finds it, and is let in."""
    storage: str = f"s3://{BUCKET}/runs"


@contextlib.contextmanager
def server(log: Path, *, address: str = "127.0.0.1") -> Iterator[Server]:
    """A server with an empty bucket; gone afterwards."""
    with socket.create_server((address, 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{address}:{port}",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", address, "-p", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        client = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="tester",
            aws_secret_access_key="not-a-secret",
            region_name="us-east-1",
        )

        def has_bucket() -> bool:
            with contextlib.suppress(BotoCoreError):
                client.create_bucket(Bucket=BUCKET)
                return True
            return False

        eventually(has_bucket, what="a server that speaks S3")
        yield Server(process, environment)
    finally:
        process.kill()
        process.wait()
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # they know where this one was
