"""`cluster`: names for Ray clusters, and how to make one of two hosts by hand."""

from pathlib import Path
from typing import Any

import click

from launcher.cli.asking import output_option, put, say
from launcher.cli.wording import columns
from launcher.cluster.names import Cluster, ClusterNames
from launcher.errors import SpecError


def known_clusters() -> ClusterNames:
    """Those of this person."""
    return ClusterNames(Path(click.get_app_dir("launcher")) / "clusters.json")


@click.group()
def cluster() -> None:
    """Name Ray clusters; start one, or join it."""


@cluster.command()
@click.argument("name")
@click.argument("url")
@click.option("--token-file", default="", help="A copy of the head's ~/.ray/auth_token.")
@click.option("--storage", default="", help="Folder that all its hosts share, for runs.")
def add(name: str, url: str, token_file: str, storage: str) -> None:
    """Let NAME stand for the cluster at URL, such as http://HEAD:8265."""
    if "://" in name or "://" not in url:
        raise SpecError(
            f"{name} {url} is not a name and an address; write launcher cluster add {name} "
            "http://HEAD:8265"
        )
    token = str(Path(token_file).expanduser().absolute()) if token_file else ""
    if token and not Path(token).is_file():
        raise SpecError(f"--token-file is {token_file}, and there is no such file")
    known_clusters().add(Cluster(name, url.rstrip("/"), token, storage))
    say(f"{name} is {url}")


@cluster.command("list")
@output_option
def list_clusters(output: str) -> None:
    """List the clusters that have names."""
    known = known_clusters().all()
    if output == "json":
        clusters = [{"name": c.name, "url": c.url, "storage": c.storage} for c in known]
        put({"schema": 1, "clusters": clusters})
        return
    rows = [(c.name, c.url, c.storage, c.token_file) for c in known]
    click.echo(columns([("NAME", "URL", "STORAGE", "TOKEN FILE"), *rows]))


@cluster.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget NAME; the cluster itself goes on."""
    known_clusters().remove(name)


def _address_option(command: Any) -> Any:
    return click.option(
        "--address",
        required=True,
        metavar="IP",
        help="This host's address, by which the others reach it.",
    )(command)


@cluster.command()
@_address_option
@click.option("--port", default=6379, show_default=True, help="Where hosts join.")
@click.option("--dashboard-port", default=8265, show_default=True, help="Where jobs come in.")
@click.option("--cpus", default=None, type=int, help="Cores for ranks.  [default: all]")
def up(address: str, port: int, dashboard_port: int, cpus: int | None) -> None:
    """Make this host the head of a cluster."""
    from launcher.cluster import hosts

    token = hosts.start_head(address, port=port, dashboard_port=dashboard_port, cpus=cpus)
    say(f"the head is up; its token is in {token}, which each other host and each person needs")
    say(f"on another host: launcher cluster join {address}:{port} --token-file TOKEN --address IP")
    say(
        f"to submit:       launcher cluster add NAME http://{address}:{dashboard_port} "
        "--token-file TOKEN --storage /SHARED/runs"
    )


@cluster.command()
@click.argument("head", metavar="HEAD:PORT")
@_address_option
@click.option("--token-file", required=True, help="A copy of the head's token.")
@click.option("--cpus", default=None, type=int, help="Cores for ranks.  [default: all]")
def join(head: str, address: str, token_file: str, cpus: int | None) -> None:
    """Add this host to the cluster of HEAD."""
    from launcher.cluster import hosts

    hosts.join(head, address=address, token_file=Path(token_file), cpus=cpus)
    say(f"{address} has joined {head}")
