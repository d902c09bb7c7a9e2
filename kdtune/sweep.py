"""`python -m kdtune.sweep FILE`: the door to `command`. Nothing imports this module: `kdtune.sweep` is the function."""

from kdtune.cli.sweep import main

if __name__ == "__main__":
    main(prog_name="python -m kdtune.sweep")
