"""`triptych serve`: a deployment file becomes a server."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from triptych.engine.servable import check_device, only_pool
from triptych.engine.server.prompts import Images, Vocabulary
from triptych.engine.server.recording import Recording
from triptych.engine.server.server import KILLED, Server, Settings
from triptych.engine.server.supervisor import Patience
from triptych.plan import plan_pools, rooted
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment

__all__ = ["Patience", "Settings", "serve"]

_LONGEST_FOLDER = 60
"""Characters: the path of a socket has 107 at the most."""


def serve(
    deployment: Path,
    overrides: Sequence[str] = (),
    *,
    settings: Settings | None = None,
    record: Path | None = None,
    model_name: str | None = None,
    profile_batches: int = 0,
) -> int:
    """Serves a deployment until it is told to stop by SIGTERM or SIGINT.

    Args:
        deployment: YAML file; one pool that runs all phases.
        overrides: `path.to.field=value`, of the deployment.
        settings: of the server.
        record: folder for the run record, which is written when the server ends.
        model_name: another name for the model, which is listed before its own.
        profile_batches: that torch's profiler watches, the first ones; what it saw joins the run record.

    Returns:
        The exit code: 0 after it was told to stop, 2 where the worker says that the deployment cannot be
        served (on standard error), 1 where it dies too often. A second signal ends the process, with 130.

    Raises:
        SpecError: the deployment, or a setting, is wrong.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # of one text there is nothing to share out
    logging.basicConfig(stream=sys.stderr, format="triptych: %(message)s", level=logging.WARNING)
    written = Deployment.load(deployment, overrides)
    declared = rooted(written, deployment)
    # What is wrong with it is said at once, before the worker has started.
    name, _ = only_pool(declared, deployment)
    plan = plan_pools(declared, deployment)[0]
    check_device(plan.device.name, field=f"pools.{name}.device", file=deployment)
    recording = Recording(record)
    if record is None and profile_batches:
        raise SpecError("--profile-batches", "joins the run record; add --record FOLDER")

    def load() -> tuple[Vocabulary, Images | None]:
        # These import torch and transformers, which takes seconds.
        from triptych.engine.images import load_image_reader
        from triptych.engine.tokenizer import load_tokenizer

        vocabulary = Vocabulary(load_tokenizer(declared.model, file=deployment))
        return vocabulary, load_image_reader(declared.model, file=deployment)

    names = (written.model,) if model_name is None else (model_name, written.model)
    with tempfile.TemporaryDirectory(prefix="triptych-", dir=_folder()) as private:
        directory = Path(private)
        file = directory / deployment.name
        file.write_text(declared.to_yaml(), encoding="utf-8")
        command = [sys.executable, "-m", "triptych.engine.worker", "--deployment", str(file)]
        command += ["--declared-in", str(deployment)]
        if record is not None:
            command += ["--record", str(record)]
        if profile_batches:
            command += ["--profile-batches", str(profile_batches)]
        server = Server(settings or Settings(), names, load, command, directory)
        with recording.held(), asyncio.Runner(loop_factory=server.loop_factory) as runner:
            code = runner.run(server.run())
            if code == KILLED:
                recording.leave()
            elif not recording.finish(
                plan, declared, gather=server.supervisor.deaths > 0, interrupted=code != 0
            ):
                code = code or 1
    if code == KILLED:
        os._exit(code)  # at once: threads in the midst of loading or of an image would hold up the end
    return code


def _folder() -> str | None:
    """Where to put the sockets; None: where temporary files go."""
    return "/tmp" if len(tempfile.gettempdir()) > _LONGEST_FOLDER else None
