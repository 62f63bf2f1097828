"""The command line: one function a verb, and nothing but what turns words into calls."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from triptych.spec.base import SpecError

app = typer.Typer(
    name="triptych",
    help="Plan, predict and serve LLM inference that is split by phase: encode, prefill, decode.",
    epilog="To begin, in any folder:\n\n"
    "triptych examples copy\n\n"
    "triptych simulate examples/deployments/mixed.yaml examples/workloads/chat.yaml",
    pretty_exceptions_enable=False,
)

_UsageError: Any = typer.BadParameter.__mro__[1]
"""What a wrong command line raises; of its kinds, releases of typer all export this one alone."""


class Batches(str, Enum):  # noqa: UP042 - typer shows the values of a str enum
    """Which rows of the batch log to keep."""

    ALL = "all"
    SAMPLE = "sample"
    OFF = "off"


class Api(str, Enum):  # noqa: UP042 - as above
    """Which of a server's two APIs to use."""

    COMPLETIONS = "completions"
    CHAT = "chat"


_Json = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE", help="Write what is printed as JSON; -: to standard output alone."
    ),
]


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
    interval: Annotated[
        bool, typer.Option(help="Run twice more for a 90% interval of latencies and throughput.")
    ] = True,
    json: _Json = None,
) -> None:
    """Predict latency, throughput, utilisation, energy and cost of a deployment under a workload."""
    from triptych.report.console import simulate_and_report

    finished = simulate_and_report(
        deployment,
        workload,
        override or [],
        out=out,
        batches=batches.value,
        trace=trace,
        jump=jump,
        interval=interval,
        json=json,
    )
    if not finished:
        raise typer.Exit(130)  # as a shell reports an interrupt


@app.command()
def bench(
    workload: Annotated[Path, typer.Argument(help="YAML file that says which requests come when.")],
    url: Annotated[str, typer.Option(help="Of a server with the OpenAI API, up to and with /v1.")] = (
        "http://127.0.0.1:8000/v1"
    ),
    model: Annotated[
        str | None, typer.Option(help="Name of the model; the only one that is served by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run record.")] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field of the workload, such as arrivals.rate=8. May be given again.",
        ),
    ] = None,
    slo: Annotated[
        list[str] | None,
        typer.Option(metavar="BOUND", help='A bound, such as "ttft.p99=1 s". May be given again.'),
    ] = None,
    warmup: Annotated[int, typer.Option(help="Requests that are sent before and not counted.")] = 0,
    rate: Annotated[
        float | None,
        typer.Option(
            "--sweep",
            metavar="RATE",
            callback=_finite,
            help="Find the highest rate kept up with, from this on.",
        ),
    ] = None,
    api: Annotated[
        Api | None, typer.Option(help="Which API; chat by default if the workload has images.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of the model: prompts are sent as text, not as token ids.")
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option(help="Ask for outputs of exactly the declared length; OpenAI has no such field.")
    ] = True,
    retries: Annotated[int, typer.Option(help="Times a request is sent again if the server is busy.")] = 0,
    api_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", show_envvar=True, help="Key of the server.")
    ] = None,
    json: _Json = None,
) -> None:
    """Measure latency and throughput of any OpenAI-compatible server under a workload."""
    with _needs("bench", "bench"):
        from triptych.bench.console import bench_and_report, sweep_and_report
        from triptych.bench.server import Server
    server = Server(
        url,
        model,
        None if api is None else api.value,
        tokenizer,
        ignore_eos=ignore_eos,
        retries=retries,
        api_key=api_key,
    )
    for bound in slo or []:
        if "=" not in bound:
            raise SpecError("--slo", f"{bound!r} is no bound; write it like ttft.p99=1 s")
    overrides = [*(override or []), *(f"slo.{bound}" for bound in slo or [])]
    if rate is None:
        finished = bench_and_report(workload, server, overrides, out=out, warmup=warmup, json=json)
    else:
        finished = sweep_and_report(
            workload, server, overrides, start=rate, out=out, warmup=warmup, json=json
        )
    if not finished:
        raise typer.Exit(130)


@app.command()
def serve(
    deployment: Annotated[Path, typer.Argument(help="YAML file with one pool that runs all phases.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8000,
    model_name: Annotated[
        str | None, typer.Option(metavar="ALIAS", callback=_said, help="Another name for the model.")
    ] = None,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Answers that may wait for their first token.")
    ] = 1024,
    max_body_mb: Annotated[
        float, typer.Option(min=0.001, callback=_finite, help="Size of a request.")
    ] = 64.0,
    request_timeout: Annotated[
        float,
        typer.Option(
            min=0.001, metavar="SECONDS", callback=_finite, help="From a request to the end of its answer."
        ),
    ] = 600.0,
    worker_timeout: Annotated[
        float,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            callback=_finite,
            help="A worker that says nothing for so long while it has work is replaced.",
        ),
    ] = 300.0,
    allow_image_url: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", callback=_said, help="Fetch images from this host. May be given again."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="TRIPTYCH_API_KEY", show_envvar=True, help="Key that requests must hold."),
    ] = None,
    allow_anyone: Annotated[
        bool, typer.Option("--allow-anyone", help="Let anyone who reaches the host use it without a key.")
    ] = False,
    record: Annotated[Path | None, typer.Option(help="Folder for the run record.")] = None,
    profile_batches: Annotated[
        int, typer.Option(min=0, metavar="N", help="Profile the first N batches into the run record.")
    ] = 0,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a field. May be given again."),
    ] = None,
) -> None:
    """Serve a deployment under the OpenAI API until SIGTERM or Ctrl-C."""
    with _needs("serve", "engine"):
        from triptych.engine.server import main as server
    settings = server.Settings(
        host=host,
        port=port,
        max_queue=max_queue,
        max_body_mb=max_body_mb,
        request_timeout=request_timeout,
        patience=server.Patience(silence=worker_timeout),
        image_hosts=tuple(allow_image_url or ()),
        api_key=api_key,
        allow_anyone=allow_anyone,
    )
    code = server.serve(
        deployment,
        override or [],
        settings=settings,
        record=record,
        model_name=model_name,
        profile_batches=profile_batches,
    )
    raise typer.Exit(code)


@app.command()
def recover(
    record: Annotated[Path, typer.Argument(help="Folder that was given to serve as --record.")],
) -> None:
    """Write the run record of a server that was killed, or whose disk was full."""
    with _needs("recover", "engine"):
        from triptych.engine.server.recording import recover as recover_record
    aside = recover_record(record)
    if aside is not None:
        typer.echo(f"the record that was here is now {aside}")
    typer.echo(f"{record} holds what was recorded")


@app.command()
def validate(
    deployment: Annotated[Path, typer.Argument(help="YAML file with one pool that runs all phases.")],
    workload: Annotated[Path, typer.Argument(help="YAML file that says which requests come when.")],
    out: Annotated[Path, typer.Option(help="Folder for records, comparison and figure.")] = Path(
        "runs/validate"
    ),
    repeats: Annotated[int, typer.Option(min=1, help="Times that the workload is measured.")] = 3,
    load: Annotated[
        str | None, typer.Option(metavar="SHARES", help="Shares of the capacity, up to 1, such as 0.5,0.85.")
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            callback=_finite,
            help="Exit code 1 if a mean or P90 of a latency is off by more.",
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option(help="Measure operators first, once, where no profile of them is known.")
    ] = True,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Calibrate to the run that tells the capacity; needs --load.")
    ] = False,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Change a field, as for simulate. May be given again."
        ),
    ] = None,
    json: _Json = None,
) -> None:
    """Serve, bench and simulate the same requests; print predicted, measured and the error."""
    with _needs("validate", "engine,bench,figures"):
        from triptych.validation.console import validate_and_report
    code = validate_and_report(
        deployment,
        workload,
        override or [],
        out=out,
        repeats=repeats,
        load=load,
        within=within,
        measure=measure,
        calibrate=calibrate,
        json=json,
    )
    raise typer.Exit(code)


@app.command()
def calibrate(
    run: Annotated[Path, typer.Argument(help="Record of a server, or the folder of a validation.")],
    deployment: Annotated[Path, typer.Option(help="YAML file that was served.")],
    out: Annotated[Path, typer.Option(help="YAML file to write.")] = Path("calibration.yaml"),
    client: Annotated[
        list[Path] | None,
        typer.Option("--bench", help="What a client measured of the same run. May be given again."),
    ] = None,
    json: _Json = None,
) -> None:
    """Fit host time, delays and efficiencies to a measured run; tell the error on what was held out."""
    from triptych.validation.calibration_report import calibrate_and_report

    calibrate_and_report(run, deployment, out=out, clients=client or [], json=json)


profile = typer.Typer(invoke_without_command=True, help="Measure operators on the device at hand.")
app.add_typer(profile, name="profile")


@profile.callback()
def _profile(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option(help="Name of the catalogue, or a config.json; weights are random.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    tp: Annotated[str, typer.Option(metavar="DEGREES", help="Tensor parallelism, such as 1,2,4,8.")] = "1",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "bf16",
    out: Annotated[Path, typer.Option(callback=_place, help="Folder for the profile.")] = Path("profile"),
    quick: Annotated[bool, typer.Option("--quick", help="A coarse grid of sizes.")] = False,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, callback=_finite, help="Nothing new is begun after so long.")
    ] = None,
    collectives: Annotated[
        str | None,
        typer.Option(
            metavar="MEMBERS",
            help="Groups whose collectives are measured, such as 2; those of --tp by default.",
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Prompt tokens of a pass.")] = None,
    max_batch: Annotated[int | None, typer.Option(min=1, help="Sequences that decode at once.")] = None,
    max_context: Annotated[int | None, typer.Option(min=1, help="Tokens of a request.")] = None,
    max_patches: Annotated[int | None, typer.Option(min=1, help="Patches of a batch of images.")] = None,
    repeats: Annotated[int | None, typer.Option(min=2, help="Measured passes over each batch.")] = None,
) -> None:
    """Measure a model's operators as the engine runs them; Ctrl-C loses nothing that is finished."""
    if context.invoked_subcommand is not None:
        return
    if model is None:
        raise SpecError("--model", "name the model to measure, or use `triptych profile list`")
    with _needs("profile", "engine"):
        from triptych.profiler.console import profile_and_report

        if find_spec("torch") is None:  # its import takes seconds, and is the measuring process's
            raise ModuleNotFoundError(name="torch")
    finished = profile_and_report(
        model,
        device=device,
        tp=_degrees("--tp", tp),
        precision=precision,
        out=out,
        quick=quick,
        minutes=minutes,
        collectives=_degrees("--collectives", collectives) if collectives else None,
        max_tokens=max_tokens,
        max_batch=max_batch,
        max_context=max_context,
        max_patches=max_patches,
        repeats=repeats,
    )
    if not finished:
        raise typer.Exit(130)


@profile.command("list")
def profile_list(json: _Json = None) -> None:
    """List the profiles that deployments can name."""
    from triptych.profiles.library import profiles
    from triptych.profiles.readers.aiconfigurator import installed_aiconfigurator
    from triptych.report.profiles import print_profiles

    print_profiles(profiles(), installed_aiconfigurator(), json=json)


@app.command()
def models(json: _Json = None) -> None:
    """List the models of the catalogue."""
    from triptych.report.catalogue import models_as_dicts, print_models
    from triptych.report.results import check_json_target, console_beside, write_json

    check_json_target(json)
    write_json(models_as_dicts() if json else None, json)
    print_models(console_beside(json))


@app.command()
def devices(
    show: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Print the file of a device or node, to start one from."),
    ] = None,
    json: _Json = None,
) -> None:
    """List the devices and nodes of the catalogue."""
    from triptych.report.catalogue import devices_as_dicts, hardware_file, print_devices
    from triptych.report.results import check_json_target, console_beside, write_json

    check_json_target(json)
    if show is not None:
        if json is not None:
            raise SpecError("--show", "prints YAML; leave --json out, or --show")
        typer.echo(hardware_file(show), nl=False)
        return
    write_json(devices_as_dicts() if json else None, json)
    print_devices(console_beside(json))


examples = typer.Typer(invoke_without_command=True, help="List the example files, or copy them.")
app.add_typer(examples, name="examples")


@examples.callback()
def _examples(context: typer.Context, json: _Json = None) -> None:
    """List the example files."""
    if context.invoked_subcommand is not None:
        if json is not None:
            raise SpecError("--json", f"{context.invoked_subcommand} prints no table; leave it out")
        return
    from triptych.report.examples import examples_as_dicts, print_examples
    from triptych.report.results import check_json_target, console_beside, write_json

    check_json_target(json)
    write_json(examples_as_dicts() if json else None, json)
    print_examples(console_beside(json))


@examples.command("copy")
def examples_copy(
    folder: Annotated[Path, typer.Argument(help="Where to.")] = Path("examples"),
) -> None:
    """Copy the example files to a folder, to run and to change; nothing is overwritten."""
    from triptych.report.examples import copy_examples

    copy_examples(folder)


def _degrees(option: str, text: str) -> list[int]:
    """Different whole numbers above 0, divided by commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts) or len(set(parts)) < len(parts):
        raise SpecError(option, f"{text!r} must be different whole numbers from 1, such as 1,2,4")
    return [int(part) for part in parts]


def _said(value: Any) -> Any:
    """Refuses a name of nothing."""
    if value is not None and not all(name.strip() for name in ([value] if isinstance(value, str) else value)):
        raise typer.BadParameter("is empty; give a name, or leave it out")
    return value


def _place(folder: Path) -> Path:
    """Refuses where no folder can be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise typer.BadParameter(f"{there} is no folder that can be written to; name another")
    return folder


def _finite(value: float | None) -> float | None:
    """Refuses what a lower bound lets through."""
    if value is not None and not isfinite(value):
        raise typer.BadParameter(f"{value:g} is no number to count with")
    return value


@contextmanager
def _needs(verb: str, extras: str) -> Iterator[None]:
    """Imports what only some installs have."""
    try:
        yield
    except ModuleNotFoundError as error:
        problem = f"needs the package {error.name}; pip install 'triptych[{extras}]'"
        raise SpecError(verb, problem) from None


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
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports it
    except MemoryError as error:
        _refuse(f"not enough memory; declare fewer requests or instances ({error})")
    sys.exit(code)


def _refuse(problem: str) -> NoReturn:
    print(f"triptych: {problem}", file=sys.stderr)
    sys.exit(2)
