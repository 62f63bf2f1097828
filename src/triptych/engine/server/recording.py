"""The record of a server, whatever becomes of it: no two servers share one, and none replaces an earlier one.

What workers have done is in spools beside the run folder (`engine/spool.py`) until the record is written. A
server that was killed, or whose disk was full, leaves them, and `recover` makes them a record.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from triptych.engine.gather import gather_record
from triptych.engine.spool import is_being_written, spool_files, spooled_deployment
from triptych.plan import PoolPlan, plan_pools
from triptych.record.folder import check_target
from triptych.spec.base import SpecError
from triptych.spec.deployment import Deployment

logger = logging.getLogger("triptych.server")


class Recording:
    """The record of one server, to be entered for as long as it runs.

    Args:
        record: run folder; None: nothing is recorded.
    """

    def __init__(self, record: Path | None) -> None:
        self.record = record

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other servers from recording here. What earlier servers have left is kept.

        Raises:
            SpecError: another server records here, or nothing can be written.
        """
        if self.record is None:
            yield
            return
        check_target(self.record)
        with _locked(self.record):
            if spool_files(self.record):
                _recover(self.record)
                logger.warning("the record of an earlier server that was cut short is recovered")
            _set_aside(self.record)
            yield

    def finish(self, plan: PoolPlan, deployment: Deployment, *, gather: bool, interrupted: bool) -> bool:
        """Writes what is not written yet, and clears away what it was made of.

        Args:
            plan: of the pool that was served.
            deployment: as it was served.
            gather: whether the record is to be made of what all workers did; else the worker has written it.
            interrupted: whether the server did not end as it was told to.

        Returns:
            Whether all that was recorded is in the record.
        """
        if self.record is None:
            return True
        try:
            if gather:
                gather_record(self.record, plan, deployment, interrupted=interrupted)
        except (OSError, SpecError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            logger.error("the record is not written: %s", reason)
            self.leave()
            return False
        _clear(self.record)
        return True

    def leave(self) -> None:
        """Tells how to come by the record later."""
        if self.record is not None and spool_files(self.record):
            logger.warning("what was recorded is kept; `triptych recover %s` makes it a record", self.record)


def recover(record: Path) -> Path | None:
    """Makes a record of what servers that were cut short have left.

    Returns:
        Where the record that was there before is now; None: there was none.

    Raises:
        SpecError: there is nothing to recover, a server is still at it, or the record cannot be written.
    """
    check_target(record)
    with _locked(record):
        return _recover(record)


def _recover(record: Path) -> Path | None:
    files = spool_files(record)
    busy = next((file for file in files if is_being_written(file)), None)
    if busy is not None:
        problem = "a worker of an earlier server is still recording; wait until it has ended"
        raise SpecError("--record", problem, file=record)
    served = next((data for file in files if (data := spooled_deployment(file)) is not None), None)
    if not files:
        raise SpecError("", "no server has left anything to recover here", file=record)
    aside = _set_aside(record)
    if served is not None:
        deployment = Deployment.parse(served)
        try:
            gather_record(record, plan_pools(deployment)[0], deployment, interrupted=True, ended=False)
        except OSError as error:
            problem = f"the record cannot be written: {error.strerror}; make room and try again"
            raise SpecError("", problem, file=record) from None
    _clear(record)
    return aside


def _set_aside(record: Path) -> Path | None:
    """Gives an earlier record another name."""
    if not (record / "run.json").is_file():
        return None
    record = record.absolute()
    names = (record.with_name(f"{record.name}.{number}") for number in count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    record.rename(aside)
    logger.warning("the earlier record is now %s", aside)
    return aside


def _clear(record: Path) -> None:
    for file in spool_files(record):
        file.unlink(missing_ok=True)


@contextmanager
def _locked(record: Path) -> Iterator[None]:
    """Holds a run folder; the lock goes with the process, however it ends."""
    record = record.absolute()
    record.parent.mkdir(parents=True, exist_ok=True)
    path = record.with_name(f".{record.name}.lock")
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            problem = "another server is recording here; name another folder"
            raise SpecError("--record", problem, file=record) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                break
        os.close(file)  # its last holder has just removed it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)
