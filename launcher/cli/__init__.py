"""The `launcher` command. Each subcommand's module is imported when it is called.

What the commands do is the modules' of this folder; what a run is, the rows' below.
"""

import gc
import os
import sys
import traceback
from importlib import import_module
from typing import Any

import click

from launcher import __version__
from launcher.errors import ExitCode, LauncherError, SpecError

_COMMANDS = {
    "init": ("starting", "Write a spec, and the code it names, that trains as it is."),
    "validate": ("specs", "Check a spec."),
    "explain": ("specs", "Say who set each value of a spec."),
    "schema": ("specs", "Print the JSON Schema of specs, for editors."),
    "plan": ("specs", "Print every value that a run would use; start nothing."),
    "run": ("training", "Train here, in the foreground."),
    "resume": ("training", "Go on from a run's last good checkpoint."),
    "submit": ("submitting", "Train on a Ray cluster."),
    "ls": ("runs", "List runs."),
    "show": ("runs", "Show a run's outcome and record."),
    "logs": ("runs", "Print what a rank printed."),
    "stop": ("runs", "End a run that is training, with a checkpoint."),
    "wait": ("runs", "Wait until a run ends."),
    "cluster": ("clusters", "Name Ray clusters; start one, or join it."),
    "doctor": ("examining", "Check this machine, or a cluster; name the fix for what fails."),
}


_HIDDEN = {"job": ("shipped", "Train on the cluster that this process belongs to.")}


class _LazyGroup(click.Group):
    """Knows the names of its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        commands = {**_COMMANDS, **_HIDDEN}
        if cmd_name not in commands:
            return None
        module = import_module(f"launcher.cli.{commands[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # who read our output had enough, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ExitCode.SUCCEEDED

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="launcher")
def launcher() -> None:
    """Train PyTorch models from one YAML job spec.

    RUN is a run id, a unique prefix of one, the path of a run directory, or @last.
    """


def main() -> Any:
    """The entry point: runs a command, and words its errors."""
    gc.disable()  # saves a tenth of a short command's time; `run` and `resume` turn it on again
    try:
        sys.exit(launcher(standalone_mode=False) or ExitCode.SUCCEEDED)
    except click.Abort:
        sys.exit(ExitCode.STOPPED)
    except click.ClickException as error:
        error.show()
        _tell_programs(SpecError(error.format_message()))
        sys.exit(ExitCode.SPEC)
    except LauncherError as error:
        for line in str(error).splitlines():
            click.echo(f"error: {line}", err=True)
        _tell_programs(error)
        sys.exit(error.exit_code)
    except Exception:  # noqa: BLE001  # the last place where a bug of ours can be reported
        traceback.print_exc()
        click.echo("error: this is a bug of the launcher, please report it", err=True)
        sys.exit(ExitCode.BUG)


def _tell_programs(error: LauncherError) -> None:
    """Who asked for JSON gets a document also where a command was refused."""
    asked = " ".join(sys.argv[1:]).replace("--output", "-o").replace("=", " ")
    if "-o json" in asked or "-ojson" in asked:
        from launcher.cli.asking import put
        from launcher.outcome import failure_of, refused

        put(refused(failure_of(error)))
