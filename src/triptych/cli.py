"""The command line: one function a verb, and nothing but what turns words into calls."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from triptych.spec.base import SpecError

app = typer.Typer(
    name="triptych",
    help="Plan, predict and serve LLM inference that is split by phase: encode, prefill, decode.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

_UsageError: Any = typer.BadParameter.__mro__[1]
"""What a wrong command line raises; of its kinds, releases of typer all export this one alone."""


class Batches(str, Enum):  # noqa: UP042 - typer shows the values of a str enum
    """Which rows of the batch log to keep."""

    ALL = "all"
    SAMPLE = "sample"
    OFF = "off"


@app.command()
def simulate(
    deployment: Annotated[Path, typer.Argument(help="YAML file that says which phases run where.")],
    workload: Annotated[Path, typer.Argument(help="YAML file that says which requests come when.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the run record.")] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field of the deployment, such as pools.decode.instances=4, or of the workload, "
            "such as workload.arrivals.rate=8. May be given again.",
        ),
    ] = None,
    batches: Annotated[
        Batches, typer.Option(help="Rows of the batch log to keep in the folder.")
    ] = Batches.ALL,
    trace: Annotated[
        bool, typer.Option("--trace", help="Also write trace.json, which opens in ui.perfetto.dev.")
    ] = False,
    jump: Annotated[
        bool, typer.Option(help="Leap over runs of equal iterations; the result is the same, to rounding.")
    ] = True,
) -> None:
    """Predict latency, throughput, utilisation, energy and cost of a deployment under a workload."""
    from triptych.report.console import simulate_and_report

    finished = simulate_and_report(
        deployment, workload, override or [], out=out, batches=batches.value, trace=trace, jump=jump
    )
    if not finished:
        raise typer.Exit(130)  # as a shell reports an interrupt


@app.command()
def models() -> None:
    """List the models of the catalogue."""
    from triptych.report.catalogue import print_models

    print_models()


@app.command()
def devices() -> None:
    """List the devices and nodes of the catalogue."""
    from triptych.report.catalogue import print_devices

    print_devices()


def _version(asked: bool) -> None:
    if asked:
        from triptych.version import __version__

        typer.echo(f"triptych {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Runs the command line; a wrong command or declaration is one line on standard error and exit code 2."""
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="triptych", standalone_mode=False)
    except SpecError as error:
        _refuse(str(error))
    except _UsageError as error:
        verb = error.ctx.command_path if error.ctx is not None else "triptych"
        _refuse(f"{error.format_message().removesuffix('.')}; see {verb} --help")
    except MemoryError as error:
        _refuse(f"not enough memory; declare fewer requests or instances ({error})")
    sys.exit(code)


def _refuse(problem: str) -> NoReturn:
    print(f"triptych: {problem}", file=sys.stderr)
    sys.exit(2)
