"""`kdtune doctor [FILE]`: what would fail later, told now. A line a check; status 4 if something would fail.

FILE is a cluster file, as `ray up` takes it, or a sweep; without one this machine is looked at, and the cluster that
--address or RAY_ADDRESS names.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import click

from kdtune import paths
from kdtune.cli import check
from kdtune.cli.options import Options
from kdtune.cli.refused import status_of
from kdtune.cli.start import no_ray
from kdtune.cli.sweep import read
from kdtune.doctor import clusterfile, machine
from kdtune.doctor import sweep as of_sweep
from kdtune.doctor.finding import Finding, Level, failure, ok, warning
from kdtune.launch.door import AUTO, CannotConnect, answer, enter
from kdtune.launch.interrupt import Interrupt
from kdtune.planning import cost
from kdtune.planning.plan import Plan, build_plan, data_sets
from kdtune.planning.searching import known_plan
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.source import read_source


def examine(file: Path | None, options: Options, insecure: bool) -> int:
    """Prints every finding as it comes; returns the exit status."""
    return status_of(lambda: _examine(file, options, insecure))


def _examine(file: Path | None, options: Options, insecure: bool) -> int:
    failed = 0
    for finding in findings(file, options, insecure):
        click.echo(f"{finding.level.upper() if finding.level is Level.FAILURE else finding.level:8s} {finding.what}")
        failed += finding.level is Level.FAILURE
    click.echo(f"\n{failed} would fail" if failed else "\nnothing that would fail was found")
    return 4 if failed else 0


def findings(file: Path | None, options: Options, insecure: bool) -> Iterator[Finding]:
    """All checks that apply, the quick ones first."""
    plan = sweep = None
    if file is not None:
        source = read_source(file)  # once: it may be a pipe
        if "provider" in source.tree:  # a cluster's, as Ray takes it: a sweep has none
            yield from clusterfile.findings(file)
            return
        sweep = read(replace(options, file=file), source)[0]
        plan = build_plan(sweep, options.data_dir)
    store = Store(paths.results_folder(options.results))
    store.objects.knock()
    if sweep is not None and (search := known_plan(sweep, options.data_dir, store)[1]) is not None:
        plan = search.foreseen()
    yield from machine.packages()
    yield from machine.vision()
    yield from machine.gpu()
    yield from machine.token()
    yield from machine.ports(insecure)
    yield from machine.storage(store)
    local = store.objects.local
    yield from machine.room([*([local] if local else []), options.data_dir, Path(tempfile.gettempdir())])
    if plan is not None:
        standing = Standing(store, plan.evaluators)
        states = standing.states(plan.runs)
        yield from of_sweep.room(plan, states, standing, cost.estimate(plan, states, standing).devices)
    if options.address:
        yield from of_cluster(options, store, plan, insecure)
    elif plan is not None:
        told = []
        for finding in of_sweep.data(plan, options.data_dir):
            told.append(finding.what)
            yield finding
        problems = check.failing(plan, standing, states, options.data_dir)
        yield from (failure(each) for each in problems if each not in told)
        if not problems:
            yield ok("every kind of network that is left to train takes a step; every evaluator has what it needs")


def of_cluster(options: Options, store: Store, plan: Plan | None, insecure: bool) -> Iterator[Finding]:
    """Whether it lets us in, and only us; then what is wrong with each of its machines."""
    address = str(options.address)
    try:
        enter(address)
    except CannotConnect as error:
        yield failure(str(no_ray(options, error)))
        return
    if address != AUTO and answer(address, "") == "OK":
        open_to_all = f"the Ray at {address} asks for no token: whoever reaches it runs code there"
        yield warning(open_to_all) if insecure else failure(f"{open_to_all}; accept it: --insecure")
    with store.claim(f"doctor/{secrets.token_hex(6)}") as claim, Interrupt() as interrupt:  # type: ignore[union-attr]
        yield from asked(options, plan, (claim.name, claim.attempt), interrupt)


def asked(options: Options, plan: Plan | None, claim: tuple[str, str], interrupt: Interrupt) -> Iterable[Finding]:
    """Each machine of the cluster that lives, as a run of the plan would find it."""
    from kdtune.launch import cluster, node, resources
    from kdtune.launch.autoscaler import growth
    from kdtune.launch.guard import RayLost, with_ray

    expected = node.expected(paths.results_folder(options.results), options.data_dir, claim)
    data = [run.model_dump_json() for run in data_sets(plan.runs)] if plan is not None else []
    found: list[Finding] = []

    def work(stop: threading.Event) -> None:
        there = resources.machines()
        for name, problems in cluster.look_over(expected, data, there, resources.SHARE, stop).items():
            found.extend(map(failure, problems))
            if not problems:
                found.append(
                    ok(f"machine {name}: the same Python, packages and code; sees, writes and reads the results")
                )
        if plan is not None:
            per_run = resources.choose(plan.profile, options.gpus_per_run, on_cluster=True)
            try:
                resources.check(per_run, {run.role for run in plan.runs.values()}, growth())
            except resources.CannotHold as short:
                found.append(failure(str(short)))

    with tempfile.TemporaryDirectory(prefix="kdt", dir="/tmp", ignore_cleanup_errors=True) as folder:
        try:
            with_ray(options.address, folder, work, lambda: interrupt.signal != 0)
        except (CannotConnect, RayLost) as error:
            found.append(failure(str(error)))
    return found
