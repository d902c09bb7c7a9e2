"""kdtune: sweeps of noisy knowledge distillation.

kdtune.plan(file, profile=...)        the distinct runs of a sweep file, and who waits for whom
kdtune.run_sweep(file, profile=...)   does the sweep; the exit status
kdtune.table("results/fickle")        its results as a DataFrame, a row a place that asks for a run
kdtune.load("3f2a5b...")              the network of a finished run, by its id or its name
kdtune.trainable(file, profile=...)   a run of a sweep file as a function for a Tuner of one's own
"""

from kdtune.api import load, plan, run_sweep, table, trainable

__all__ = ["load", "plan", "run_sweep", "table", "trainable"]
