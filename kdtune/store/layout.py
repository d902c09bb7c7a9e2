"""Names and keys of what runs leave behind; the picture is in `store`. Nobody else knows a path."""

from __future__ import annotations

import re

DONE = "runs/done"
CLAIMS = "runs/claims"
TRASH = "runs/trash"
STOPPED = "runs/stopped"
RESPONSES = "runs/responses"
IMPORTS = "runs/imports"
SEARCHES = "searches"  # beside `runs`
BESIDE = {"last": "last.safetensors", "average": "average.safetensors"}  # weights beside those that are the run's
DESCRIPTION, WEIGHTS, HISTORY = "run.yaml", "model.safetensors", "history.jsonl"
PROVENANCE, FAILURE = "provenance.json", "failure.json"
LABELS = "labels.npz"
STACKS = "stacks.txt"
EXTENSION = re.compile(r"extension-[0-9a-f]{12}\.py")  # by the digits that the description names
EVALUATIONS = "evaluations"  # a folder of each attempt
# Of a finished attempt: what `done` may vouch for.
FILES = (DESCRIPTION, WEIGHTS, HISTORY, PROVENANCE, LABELS, *BESIDE.values())

RUN_ID = re.compile(r"[0-9a-f]{12}")
HASH = re.compile(r"[0-9a-f]{6,64}")
ATTEMPT = re.compile(r"[0-9]{8}T[0-9]{6,12}-[0-9a-f]{6}")
SHA256 = re.compile(r"[0-9a-f]{64}")


def run_folder(run_id: str) -> str:
    """The key under which everything of a run lies; ValueError if `run_id` is not 12 hex digits."""
    if not RUN_ID.fullmatch(run_id):
        raise ValueError(f"{run_id!r} is not a run's id: 12 hex digits")
    return f"runs/{run_id}"


def done_key(run_id: str) -> str:
    """The key of the record that says a run is finished."""
    return f"{DONE}/{run_folder(run_id).removeprefix('runs/')}"


def stopped_key(run_id: str) -> str:
    """The key of the record that somebody has stopped the run by hand."""
    return f"{STOPPED}/{run_folder(run_id).removeprefix('runs/')}"


def proposal_key(search_id: str, number: int) -> str:
    """The key of a search's proposal; ValueError if `search_id` is not 12 hex digits."""
    if not RUN_ID.fullmatch(search_id):
        raise ValueError(f"{search_id!r} is not a search's id: 12 hex digits")
    return f"{SEARCHES}/{search_id}/{number}.json"


def claim_key(name: str) -> str:
    """The key of a claim: of a run by its id, of "sweep/<name>/<profile>", of "responses/<key>"."""
    return f"{CLAIMS}/{name}"


def evaluation_name(attempt: str, evaluator_hash: str) -> str:
    """Where an evaluator's results lie below the run's folder, without .json or .npz."""
    if not HASH.fullmatch(evaluator_hash):
        raise ValueError(f"{evaluator_hash!r} is not an evaluator's hash: 6 to 64 hex digits")
    return f"{attempt}/{EVALUATIONS}/{evaluator_hash}"
