"""The part of a server's record that is of certain clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from triptych.record import LaneLog, Run
from triptych.validation.calibration_delays import BEGAN


def during(server: Run, clients: Sequence[Run]) -> Run:
    """The server's record without batches but those that began while one of the clients measured.

    All of them are left out where a record does not say at which time its clock began.
    """
    lanes = []
    for lane in server.lanes:
        start = server.meta.get(BEGAN, np.nan) + lane["start"]
        rows = np.zeros(len(lane), dtype=np.bool_)
        for client in clients:
            begin = client.meta.get(BEGAN, np.nan)
            rows |= (start >= begin) & (start < begin + client.horizon)
        columns = {name: column[rows] for name, column in lane.columns.items()}
        lanes.append(LaneLog(lane.instance, lane.lane, columns))
    return replace(server, lanes=lanes)
