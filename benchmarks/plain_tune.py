"""A sweep's students through plain Ray Tune, for `slots.py`: `python benchmarks/plain_tune.py FILE`.

A function as Tune's documentation has it, processes reused: it trains and measures with kdtune's own code, and keeps
nothing. Prints when each run began and ended, in seconds since 1970, as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune

from kdtune.planning.plan import build_plan
from kdtune.run import Run
from kdtune.sweepfile.load import load_sweep


def student(config: dict[str, Any]) -> None:
    began = time.time()
    import torch

    from kdtune.data.loading import load
    from kdtune.evaluation.accuracy import accuracy
    from kdtune.losses.ce import CE
    from kdtune.training.lesson import Lesson
    from kdtune.training.loop import train
    from kdtune.training.network import placed, starting_network

    torch.set_num_threads(1)
    run = Run.model_validate(json.loads(config["run"]))
    assert run.recipe is not None and run.seed is not None
    data = load(run.dataset, Path("nowhere"))
    network = placed(starting_network(run, data.shape, data.classes), "cpu")
    train(network, data.train, run.recipe, Lesson(data.classes, run.seed, run.noise, CE()), run.seed)
    tune.report({"accuracy": accuracy(network.eval(), data.test), "began": began, "ended": time.time()})


def main() -> None:
    plan = build_plan(load_sweep(Path(sys.argv[1])), Path("nowhere"))
    runs = [place.run.model_dump_json() for place in plan.runs.values()]
    with tempfile.TemporaryDirectory() as folder:
        ray.init(address="local", include_dashboard=False, _temp_dir=folder, logging_level="ERROR")
        found = tune.Tuner(
            student,
            param_space={"run": tune.grid_search(runs)},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        print(json.dumps([(each.metrics["began"], each.metrics["ended"]) for each in found]))
        ray.shutdown()


if __name__ == "__main__":
    main()
