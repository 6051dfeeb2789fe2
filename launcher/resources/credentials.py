"""Whether a W&B API key can be found here; keys themselves stay where they are."""

import configparser
import netrc
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

_WANDB_HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")
"""W&B's own service since 0.31, and its older name, whose keys it still takes."""


def has_wandb_key(env: Mapping[str, str], *, home: Path, cwd: Path) -> bool:
    """Look where wandb 0.31 looks (sdk/lib/wbauth), without importing it."""
    settings = _wandb_settings(env, home=home, cwd=cwd)
    if (env.get("WANDB_MODE") or settings.get("mode")) in ("offline", "disabled", "dryrun"):
        return False
    if env.get("WANDB_API_KEY") or env.get("WANDB_IDENTITY_TOKEN_FILE") or settings.get("api_key"):
        return True
    url = env.get("WANDB_BASE_URL") or settings.get("base_url") or f"https://{_WANDB_HOSTS[0]}"
    machine = urlsplit(url).netloc
    accepted = _WANDB_HOSTS if machine == _WANDB_HOSTS[0] else (machine,)
    keys = _netrc_keys(env, home=home)
    return any(keys.get(name) for name in accepted)


def _netrc_keys(env: Mapping[str, str], *, home: Path) -> dict[str, str]:
    files = [Path(env["NETRC"])] if env.get("NETRC") else [home / ".netrc", home / "_netrc"]
    for file in files:
        try:
            hosts = netrc.netrc(file.expanduser()).hosts
        except FileNotFoundError:
            continue
        except (OSError, netrc.NetrcParseError):
            break
        return {machine: password for machine, (_, _, password) in hosts.items()}
    return {}


def _wandb_settings(env: Mapping[str, str], *, home: Path, cwd: Path) -> dict[str, str]:
    """What `wandb login --host` and `wandb offline` have written; the workspace's file wins."""
    shared = Path(env.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb").expanduser()
    workspace = Path(env.get("WANDB_DIR") or cwd).expanduser() / "wandb"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read([shared / "settings", workspace / "settings"], encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}
    return dict(parser["default"]) if parser.has_section("default") else {}
