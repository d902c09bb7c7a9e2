"""TensorBoard's messages: a run's scalars, what its tabs HParams and Custom Scalars read, as bytes of an event file.

The HParams tab takes a *session* from each run that has a session start, its status from a session end, and its columns
from the one *experiment* among all runs. All three travel as metadata of an empty tensor (tensorboard 2.21,
plugins/hparams/summary.py, which itself needs TensorFlow). Importing this loads tensorboard, no TensorFlow, no torch.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

Scalars = Mapping[str, float]
Parameters = Mapping[str, bool | float | str]


def records(events: Iterable[Event], *, opening: bool = False) -> bytes:
    """The events as bytes to append to a file; `opening` begins one."""
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in [Event(wall_time=time.time(), file_version="brain.Event:2")] * opening + [*events]:
        writer.write(event.SerializeToString())
    return buffer.getvalue()


def session(
    name: str, parameters: Parameters, rows: Sequence[Scalars], final: Scalars, success: bool | None
) -> list[Event]:
    """Everything of a run; `name` is what the HParams tab calls it, and no other's.

    Rows of the past have no time of their own: they end now and begin `time/epoch` apart.
    """
    times = [time.time()]
    for row in reversed(rows):
        times.append(times[-1] - row.get("time/epoch", 0.0))
    times.reverse()
    shown = [scalars(row, int(row["epoch"]), at) for row, at in zip(rows, times[1:], strict=True)]
    return [*beginning(name, parameters, times[0]), *shown, *ending(rows, final, success, times[-1])]


def scalars(row: Scalars, step: int, at: float) -> Event:
    """The values of one epoch under their own names. `at` is in seconds since 1970."""
    values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "epoch"]
    return Event(wall_time=at, step=step, summary=Summary(value=values))


def restart(at: float) -> Event:
    """A server that is running drops what an earlier file of the run told it."""
    return Event(wall_time=at, session_log=SessionLog(status=SessionLog.START))


def beginning(name: str, parameters: Parameters, at: float) -> list[Event]:
    """A session's start."""
    info = SessionStartInfo(start_time_secs=at, group_name=name)  # without it the tab shows the folder's path
    for name, value in parameters.items():
        kind = {bool: "bool_value", float: "number_value", str: "string_value"}[type(value)]
        setattr(info.hparams[name], kind, value)
    return [restart(at), _plugin(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info), at)]


def ending(rows: Sequence[Scalars], final: Scalars, success: bool | None, at: float) -> list[Event]:
    """Final metrics at the last epoch, no point twice; then how the session ended. `success` is None: it has not.

    One that was measured of that epoch's own weights too, and is of others, stands behind it: one point a step.
    """
    last: Scalars = rows[-1] if rows else {"epoch": 0}
    new = {name: value for name, value in final.items() if last.get(name) != value}
    at_last, behind = ({name: new[name] for name in new if (name in last) is watched} for watched in (False, True))
    steps = ((at_last, int(last["epoch"])), (behind, int(last["epoch"]) + 1))
    events = [scalars(values, step, at) for values, step in steps if values]
    if success is not None:
        status = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
        info = SessionEndInfo(status=status, end_time_secs=at)
        events.append(_plugin(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info), at))
    return events


def experiment(sessions: Sequence[Parameters], metrics: Iterable[str]) -> Event:
    """The columns: parameters with the values they take (TensorBoard shows first those that differ), then metrics."""
    taken: dict[str, list[Any]] = {}
    for parameters in sessions:
        for name, value in parameters.items():
            taken.setdefault(name, []).append(value)
    types = {bool: api_pb2.DATA_TYPE_BOOL, float: api_pb2.DATA_TYPE_FLOAT64, str: api_pb2.DATA_TYPE_STRING}
    columns = []
    for name, values in taken.items():
        differs = len(set(values)) > 1 or len(values) < len(sessions)
        column = api_pb2.HParamInfo(name=name, type=types[type(values[0])], differs=differs)
        if isinstance(values[0], float):
            column.domain_interval.min_value, column.domain_interval.max_value = min(values), max(values)
        else:
            column.domain_discrete.extend(sorted(set(values)))
        columns.append(column)
    named = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=name)) for name in metrics]
    info = api_pb2.Experiment(hparam_infos=columns, metric_infos=named)
    return _plugin(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=info), time.time())


def layout(charts: Mapping[str, Sequence[str]]) -> Event:
    """The Custom Scalars tab: values by the title of their category, a chart for each. The tab's lines are those of the
    tags that a pattern matches from their beginning; equal layouts of several runs are one."""
    categories = []
    for title, names in charts.items():
        shown = [layout_pb2.MultilineChartContent(tag=[f"{re.escape(name)}$"]) for name in names]
        each = [layout_pb2.Chart(title=name, multiline=lines) for name, lines in zip(names, shown, strict=True)]
        categories.append(layout_pb2.Category(title=title, chart=each))
    told = layout_pb2.Layout(category=categories).SerializeToString()
    described = custom_scalar.create_summary_metadata()
    described.data_class = DATA_CLASS_TENSOR
    value = Summary.Value(
        tag=custom_scalar.CONFIG_SUMMARY_TAG, metadata=described, tensor=TensorProto(dtype=DT_STRING, string_val=[told])
    )
    return Event(wall_time=time.time(), summary=Summary(value=[value]))


def _plugin(tag: str, content: HParamsPluginData, at: float) -> Event:
    described = metadata.create_summary_metadata(content)
    value = Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)
    return Event(wall_time=at, summary=Summary(value=[value]))
