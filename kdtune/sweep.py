"""`python -m kdtune.sweep FILE`: the door to `cli.command`."""

from kdtune.cli.command import sweep

if __name__ == "__main__":
    sweep(prog_name="python -m kdtune.sweep")
