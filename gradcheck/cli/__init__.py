"""The command line: one file a command. Nothing is imported here that `--help` does not need."""

from __future__ import annotations

from typing import Annotated

import typer

from gradcheck import __version__
from gradcheck.cli import _config, check, derive, explain, fixtures, generate, report, selftest, stability, sweep

app = typer.Typer(
    name="gradcheck",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (check, stability, derive, sweep, generate, selftest, explain, report):
    app.command(module.__name__.rpartition(".")[2])(module.command)
app.add_typer(fixtures.app, name="fixtures")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gradcheck {__version__}")
        raise typer.Exit


@app.callback()
def gradcheck(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Is this softmax cross-entropy gradient right?

    Compares gradients with central differences of the loss in high precision, and says by how much they are off.
    """
    context.default_map = _config.defaults(context.command)
