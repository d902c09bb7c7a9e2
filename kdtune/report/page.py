"""A sweep as one page to hand on: report.html, which needs no network, no other file and no program but a browser.

What stands in names, errors and files of others is text: it is escaped wherever it is put. Light and dark go by the
reader's system; on paper everything is unfolded.
"""

from __future__ import annotations

import base64
import csv
import io
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtune.evaluation.flags import FLAGS, flags_of
from kdtune.planning.cost import duration
from kdtune.planning.hopeless import all_diverged, hopeless
from kdtune.report.controls import controls
from kdtune.report.difference import said as difference
from kdtune.report.foundpage import CAUTION, found_by_search
from kdtune.report.mirror import results_of
from kdtune.report.settings import by_setting, is_flagged, measured, plain, with_half
from kdtune.report.table import FIRST, axes, headlines, plan_of, read
from kdtune.statistics import mean_interval
from kdtune.store.standing import Standing
from kdtune.store.state import FINISHED, State
from kdtune.store.store import Store
from kdtune.sweepfile.values import word

if TYPE_CHECKING:
    import pandas as pd

RUNS = 2000  # rows of the table of all runs; of more the page would take long to open
HERE = Path(__file__).parent


def page(place: Path) -> str:
    """The page of a profile's folder. Raises TableError where there is no table."""
    table, plan = read(place), plan_of(place)
    standing = Standing(Store(results_of(place)), plan["evaluators"])
    counted = table["state"] == State.DONE  # without what is gone since
    table.loc[counted, "state"] = [str(standing.state(id)) for id in table.loc[counted, "id"]]
    finished = [run["id"] for run in plan["runs"] if standing.state(run["id"]) is State.DONE]
    origins = [standing.look(id).provenance for id in finished]
    title = f"{plan['sweep']} on {plan['dataset']}"
    parts = [
        section("Question", question(plan)),
        section("What the search found", searched(place)),
        section("What came out", means(table)),
        section("Controls", beside(table)),
        section("Figures", figures(place)),
        section("Claims", claims(place, plan)),
        section("Flags", flags(table) + overlap(origins)),
        section("Not counted", excluded(plan, standing)),
        section("Reproducibility", checklist(table, origins)),
        section("Where it comes from", provenance(origins)),
        section(
            "The sweep as it was resolved", folded("sweep.yaml", f"<pre>{_text(_content(place / 'sweep.yaml'))}</pre>")
        ),
        section("All runs", folded(f"{len(table)} rows", runs(table))),
    ]
    body = "\n".join(part for part in parts if part)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    about = f"profile {plan['profile']}, {len(plan['runs'])} runs; written {when}"
    head = f"<h1>{_text(title)}</h1><p>{_text(about)}</p>"
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{style}</style></head>\n<body>\n{head}\n{body}\n"
        f"<script>\n{script}</script>\n</body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A part of the page; nothing where there is nothing in it."""
    return f"<section><h2>{_text(title)}</h2>\n{body}\n</section>" if body else ""


def folded(title: str, body: str) -> str:
    return f"<details><summary>{_text(title)}</summary>\n{body}\n</details>"


def question(plan: Mapping[str, Any]) -> str:
    """The comment that the sweep file opens with, where the file still lies where it was."""
    lines = []
    for line in _content(Path(str(plan.get("file") or ""))).splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    paragraphs = "\n".join(lines).strip().split("\n\n")
    return "".join(f"<p class=prose>{_text(each.strip())}</p>" for each in paragraphs if each.strip())


def means(table: pd.DataFrame) -> str:
    """A line a setting: mean and 95 % t interval over seeds of the metrics that stand for the sweep."""
    shown = headlines(table)
    lines = []
    for label, rows in by_setting(table, axes(table)).items():
        finished = int((rows["state"] == State.DONE).sum())
        lines.append([label, f"{finished} of {len(rows)}", *(_mean(rows, metric) for metric in shown)])
    told = (
        "<p>Mean and 95 % t interval over seeds, rates in percent; ! beside a number: a flag bears on it. A click on a"
        " head sorts.</p>"
    )
    return told + rows_of(["setting", "seeds", *shown], lines)


def _mean(rows: pd.DataFrame, metric: str) -> str:
    values = measured(rows, metric)
    if not values:
        return "-"
    found = mean_interval([*values.values()])
    mark = " !" if is_flagged(rows, metric) else ""
    return with_half(found.mean, found.high) + mark


def searched(place: Path) -> str:
    """Of a search the proposals that are best by what it went by; nothing for another sweep."""
    found = found_by_search(place)
    return f"<p>{_text(CAUTION)}</p>{rows_of(*found)}" if found else ""


def beside(table: pd.DataFrame) -> str:
    """A line for each setting and each axis that can be taken away from it; nothing where no axis is ever off."""
    shown = headlines(table)
    lines = []
    for each in controls(table, shown):
        said = [difference(each.differences[name]) + (" !" if name in each.flagged else "") for name in shown]
        cells = [each.replace(" +- ", "\u00a0\u00b1\u00a0").replace(" ", "\u00a0") for each in said]
        lines.append([each.setting, f"without {each.axis}", str(each.pairs), *cells])
    told = (
        "<p>A setting minus the one that differs in this axis alone, which is off there: mean and 95 % t interval of"
        " the differences, paired by seed; * where it excludes 0.</p>"
    )
    return told + rows_of(["setting", "against", "pairs", *shown], lines) if lines else ""


def figures(place: Path) -> str:
    """The pictures in figures/, inside the page, each with what its script wrote of it."""
    found = []
    for path in sorted((place / "figures").glob("*.png")):
        data = base64.b64encode(path.read_bytes()).decode()
        told = _content(path.with_suffix(".md"))
        words = folded("in words", f"<pre>{_text(told)}</pre>") if told else ""
        picture = f'<img alt="{_text(path.stem)}" src="data:image/png;base64,{data}">'
        found.append(f"<figure>{picture}<figcaption>{_text(path.stem)}</figcaption></figure>{words}")
    return "\n".join(found)


def claims(place: Path, plan: Mapping[str, Any]) -> str:
    """What `analysis/claims.py` last found of this sweep, in results/figures/claims.csv; nothing if it did not run."""
    shown: dict[tuple[str, ...], None] = {}
    for row in csv.DictReader(io.StringIO(_content(place.parents[1] / "figures/claims.csv"))):
        if (row.get("sweep"), row.get("profile")) == (plan["sweep"], plan["profile"]):
            shown[tuple(row.get(name) or "" for name in ("claim", "statement", "metric", "verdict", "scope"))] = None
    return rows_of(["claim", "statement", "metric", "found", "scope"], list(shown)) if shown else ""


def flags(table: pd.DataFrame) -> str:
    """Which flags are up, for how many runs, and what they mean."""
    rows = table[table["state"] == State.DONE].drop_duplicates("id").to_dict("records")
    counts = Counter(flag for row in rows for flag in flags_of(row) or ())
    if not counts:
        return "<p>No flag is up: no check of the attacks found a reason to doubt a number.</p>" if rows else ""
    return rows_of(["flag", "runs", "meaning"], [[flag, str(count), FLAGS[flag]] for flag, count in counts.items()])


def overlap(origins: Sequence[Mapping[str, Any]]) -> str:
    """What runs were told of test images that they were trained on."""
    found = dict.fromkeys(sentence for origin in origins for sentence in origin.get("overlap", ()))
    return "".join(f"<p>{_text(sentence)}.</p>" for sentence in found)


def excluded(plan: Mapping[str, Any], standing: Standing) -> str:
    """Runs that no mean is over, and why."""
    names = {each["id"]: each["name"] for each in reversed(plan.get("places", []))}
    states = standing.states(run["id"] for run in plan["runs"])
    lines = []
    for run in plan["runs"]:
        state = states[run["id"]]
        if state is State.DONE:
            continue
        failure = standing.look(run["id"]).failure
        why = f"{failure['type']}: {failure['message']}" if failure else _why(state, standing.look(run["id"]).stop)
        parts = run.get("chooses_from", {})
        why = hopeless(parts, states, {}) if all_diverged(parts, states) else why
        lines.append([names.get(run["id"], run["id"]), str(state), why])
    return rows_of(["run", "state", "why"], lines) if lines else "<p>Nothing: every run of the plan is done.</p>"


def _why(state: State, stopped: object) -> str:
    if state is State.STOPPED:
        return f"stopped {stopped}"
    return "its loss was no number any more" if state in FINISHED else "not finished when this was written"


def checklist(table: pd.DataFrame, origins: Sequence[Mapping[str, Any]]) -> str:
    """What reviewers ask of experiments, answered from the runs."""
    groups = by_setting(table, axes(table))
    counts = sorted({len(each) for told, each in groups.items() if told.startswith("student")})
    seconds = sum(float(each.get("seconds", 0)) for each in origins)
    chosen = sorted({str(name) for name in table.get("teacher.metric", ()) if plain(name) is not None})
    commits = sorted({_commit(each) for each in origins})
    data = sorted({f"{_of(row, 'dataset.name')} {_of(row, 'dataset.digest')}" for row in table.to_dict("records")})
    devices = sorted({str(each.get("device")) for each in origins})
    known = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "no students"
    by = ", ".join(chosen) or "no teacher is chosen"
    test = "; chosen by test data, as the paper does" if any(name.startswith("test/") for name in chosen) else ""
    return rows_of(
        ["asked", "answer"],
        [
            ["data, with its digest", "; ".join(data)],
            ["every setting", "in sweep.yaml below; a run's id is a digest of all that decides its numbers"],
            ["seeds for each setting", known],
            ["error bars", "95 % t intervals over seeds; differences are paired by seed"],
            ["how a teacher is chosen", f"{by}{test}"],
            ["code", ", ".join(commits) or "unknown"],
            ["compute", f"{duration(seconds)} of {', '.join(devices) or 'nothing yet'}"],
            ["runs that are left out", "named above, with the reason"],
        ],
    )  # fmt: skip


def _commit(origin: Mapping[str, Any]) -> str:
    if not origin.get("commit"):
        return f"kdtune {_libraries(origin).get('kdtune')}, of no commit that is known"
    return f"{origin['commit']}{', with changes that are not committed' if origin.get('dirty') else ''}"


def _libraries(origin: Mapping[str, Any]) -> Mapping[str, Any]:
    """Versions by name; none where an import brought something else."""
    found = origin.get("libraries")
    return found if isinstance(found, dict) else {}


def _of(row: Mapping[str, Any], name: str) -> str:
    return str(row.get(name) or "")


def provenance(origins: Sequence[Mapping[str, Any]]) -> str:
    """Libraries, machines and times, each value with how many runs have it."""
    flat = [{**each, **_libraries(each)} for each in origins]
    lines = []
    for name in ("kdtune", "torch", "torchvision", "ray", "numpy", "python", "host", "device", "threads"):
        counts = Counter(str(each[name]) for each in flat if each.get(name) is not None)
        if counts:
            lines.append([name, ", ".join(f"{value} ({count} runs)" for value, count in counts.most_common())])
    times = sorted(str(each["finished"]) for each in origins if each.get("finished"))
    if times:
        lines.append(["finished", f"{times[0]} to {times[-1]}"])
    return rows_of(["what", "value"], lines) if lines else ""


def runs(table: pd.DataFrame) -> str:
    """Every row of the table, its axes and its headlines, metrics in five digits; results.csv has all of them."""
    shown = headlines(table)
    names = [*FIRST, *axes(table), *shown]

    def cell(row: Mapping[str, Any], name: str) -> str:
        value = plain(row[name])
        if value is None:
            return ""
        return f"{value:.5g}" if name in shown and isinstance(value, float) else word(value)

    lines = [[cell(row, name) for name in names] for row in table[:RUNS].to_dict("records")]
    more = f"<p>and {len(table) - RUNS} more, in results.csv</p>" if len(table) > RUNS else ""
    return rows_of(names, lines) + more


def rows_of(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table that can be sorted by a click."""

    def cells(kind: str, row: Sequence[str]) -> Iterator[str]:
        yield from (f"<{kind}>{_text(cell).replace('/', '/<wbr>')}</{kind}>" for cell in row)

    body = "\n".join(f"<tr>{''.join(cells('td', line))}</tr>" for line in lines)
    head = "".join(cells("th", heads))
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    return f"<div class=wide>{table}</div>"


def _text(text: object) -> str:
    return escape(str(text), quote=True)


def _content(path: Path) -> str:
    """A text file, empty where it is not there any more."""
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError):
        return ""
