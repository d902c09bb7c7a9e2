"""The start of a sweep: all that can be known to fail before its first run, what it costs, and where it runs.

On a cluster what would fail is found on the machines that train: this one may have no GPU, no data and no core.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from kdtune import paths
from kdtune.cli import check
from kdtune.cli.options import NO_PRICE, Options, say
from kdtune.cli.refused import Refused
from kdtune.doctor import machine
from kdtune.doctor.finding import Level
from kdtune.launch.door import CannotConnect, enter
from kdtune.launch.interrupt import Interrupt
from kdtune.planning import cost, profiles
from kdtune.planning.devices import CPU_CORE, GPU, SHARE, available, has_usable_gpu
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import Plan
from kdtune.planning.room import shortage
from kdtune.planning.searching import Searching
from kdtune.planning.twins import on_twins
from kdtune.planning.watching import Watcher
from kdtune.report import searched
from kdtune.report.folder import View
from kdtune.store.claims import Claim
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.sweepfile.load import SweepFile

if TYPE_CHECKING:
    from kdtune.launch.cluster import Cluster

CONFIRM_ABOVE_H = 12.0
RAY_MATTERS_H = 0.2  # of a longer sweep nobody misses the seconds of its start


def prepare(options: Options, dispatch: Dispatch) -> None:
    """All that can be known to fail before a run starts: cluster, storage, room, cost; data, evaluators, weights,
    networks. Of a cluster the rest is asked of its machines, once it has been joined (`cluster_of`)."""
    if options.max_cost is not None and options.price is None:
        raise Refused(NO_PRICE)
    for finding in machine.cheap(unused=unused(options, dispatch)):
        if finding.level is Level.FAILURE:
            raise Refused(finding.what)
        if finding.level is Level.WARNING:
            click.echo(f"warning: {finding.what}", err=True)
    if options.address:
        try:
            enter(options.address)
        except CannotConnect as error:
            raise no_ray(options, error) from error
    dispatch.standing.store.objects.probe()
    plan, states = foreseen(dispatch)
    if warning := on_twins(plan):
        click.echo(f"warning: {warning}", err=True)
    estimate = estimate_of(options, plan, states, dispatch.standing)
    if options.max_cost is not None and (estimate.dollars or 0) > options.max_cost:
        raise Refused(f"{estimate}; --max-cost {options.max_cost:g} is less")
    if options.address:
        return
    short = not options.here and 0 < estimate.hours < RAY_MATTERS_H
    say(options, f"{estimate}{'; starting and ending Ray takes some 20 s more' * short}")
    say_slack(options, dispatch, estimate)
    refuse_shortage(options, plan, states, dispatch.standing, estimate)
    if estimate.hours > CONFIRM_ABOVE_H and not options.yes:
        if not sys.stdin.isatty() or options.json:
            raise Refused(
                f"about {estimate.hours:.0f} hours on this machine; add --yes to start it all the same, or take a "
                "smaller one: --profile quick"
            )
        if not click.confirm(f"This takes about {estimate.hours:.0f} hours here. Start it?", err=True):
            raise Refused("not confirmed")
    failing = check.failing if options.here else check.failing_apart  # here torch and data are needed anyway
    if problems := failing(dispatch.plan, dispatch.standing, dispatch.states, options.data_dir):
        raise Refused(check.listed(problems))


def unused(options: Options, dispatch: Dispatch) -> tuple[str, ...]:
    """Packages that nothing of this sweep asks for: a machine lent for an hour may have torch and little else."""
    if not options.here:
        return ()
    return ("ray",) if dispatch.source is not None else ("ray", "optuna")  # a search needs Optuna


def foreseen(dispatch: Dispatch) -> tuple[Plan, Mapping[str, State]]:
    """The plan as it may be in the end, and how its runs stand."""
    if dispatch.source is None:
        return dispatch.plan, dispatch.states
    plan = dispatch.source.foreseen()
    coming = [id for id in plan.runs if id not in dispatch.states]
    return plan, {**dispatch.standing.states(coming), **dispatch.states}


def estimate_of(
    options: Options, plan: Plan, states: Mapping[str, State], standing: Standing, devices: int = cost.UNKNOWN
) -> cost.Estimate:
    """What is left to compute. Of a cluster the number of its devices is known only once it has been joined."""
    if not options.address:
        device = GPU if options.gpus != 0 and has_usable_gpu() else CPU_CORE
        here = min(available(device), options.max_concurrent or available(device))
        return cost.estimate(plan, states, standing, device, here, options.price)
    on_gpus = profiles.wants_gpu(plan.profile) if options.gpus is None else options.gpus > 0
    device = GPU if on_gpus else CPU_CORE
    return cost.estimate(plan, states, standing, device, devices, price=options.price)


def say_slack(options: Options, dispatch: Dispatch, estimate: cost.Estimate) -> None:
    """What a search's lag means for its sampler, and for so many slots."""
    share = (SHARE if options.gpus is None else options.gpus) if estimate.device is GPU else 1.0
    slots = 1.0 if options.here else min(estimate.devices / (share or 1.0), options.max_concurrent or float("inf"))
    if isinstance(dispatch.source, Searching):
        for told in (searched.blind(dispatch.source), searched.slack(dispatch.source, slots)):
            if told is not None:
                say(options, told)


def refuse_shortage(
    options: Options, plan: Plan, states: Mapping[str, State], standing: Standing, estimate: cost.Estimate
) -> None:
    at_once = 1 if options.here else min(estimate.devices, options.max_concurrent or estimate.devices)
    if short := shortage(plan, states, standing, at_once):
        raise Refused(short)


def cluster_of(options: Options, dispatch: Dispatch, claim: Claim) -> Cluster | None:
    """The cluster that was asked for, and what the sweep expects of it."""
    if not options.address:
        return None
    from kdtune.launch import node
    from kdtune.launch.cluster import Cluster

    def sized(devices: int) -> None:
        plan, states = foreseen(dispatch)
        estimate = estimate_of(options, plan, states, dispatch.standing, devices)
        say(options, str(estimate))
        say_slack(options, dispatch, estimate)
        refuse_shortage(options, plan, states, dispatch.standing, estimate)

    results = paths.results_folder(options.results)
    expected = node.expected(results, options.data_dir, (claim.name, claim.attempt))
    preflight = check.on_another_machine(dispatch.plan, dispatch.standing, dispatch.states, options.data_dir)
    return Cluster(options.address, expected, preflight, sized)


def observe(options: Options, file: SweepFile, dispatch: Dispatch, view: View, command: str) -> Watcher:
    from kdtune.report.log import Log
    from kdtune.report.observer import Observer, Table, TensorBoard
    from kdtune.report.progress import Progress

    screen = Progress(dispatch.plan, dispatch, verbosity=options.verbosity)
    table = Table(dispatch, lambda states: view.write(file, states))
    observer = Observer([screen, Log(dispatch, view, command), table, TensorBoard(dispatch, view)])

    def grown(new: Sequence[str]) -> None:
        view.grow(dispatch.plan)
        observer.grown(dispatch.plan, new)

    dispatch.on_growth = grown
    return observer


def launch(options: Options, dispatch: Dispatch, observer: Watcher, interrupt: Interrupt, claim: Claim) -> None:
    """Through Ray, or in this process. `claim` is the claim of the sweep, held meanwhile."""
    results = paths.results_folder(options.results)
    if options.here:
        from kdtune.launch.here import launch_here

        launch_here(dispatch, observer, options.data_dir, options.checkpoint_every, interrupt)
        return
    from kdtune.launch import tuner
    from kdtune.launch.cluster import NotReady
    from kdtune.launch.guard import RayLost
    from kdtune.launch.resources import CannotHold
    from kdtune.launch.trainable import job

    cluster = cluster_of(options, dispatch, claim)
    expected = cluster.expected if cluster else None
    try:
        tuner.launch(
            dispatch,
            lambda planned: job(planned, dispatch.plan, results, options.data_dir, options.checkpoint_every, expected),
            observer,
            cluster=cluster,
            gpus_per_run=options.gpus_per_run,
            max_concurrent=options.max_concurrent,
            interrupted=lambda: interrupt.signal != 0,
        )
    except RayLost as lost:
        dispatch.stop(f"{lost}. What is finished is stored, and the same command goes on from the last checkpoints")
    except CannotConnect as error:
        raise no_ray(options, error) from error
    except CannotHold as error:
        raise Refused(str(error)) from error
    except NotReady as error:
        raise Refused(check.listed(error.problems)) from error


def no_ray(options: Options, error: CannotConnect) -> Refused:
    said_by = "RAY_ADDRESS" if options.address == os.environ.get("RAY_ADDRESS") else "--address"
    return Refused(
        f"no Ray at {options.address}, which {said_by} names: {error}. --address local takes one of this machine"
    )
