from kdtune.planning import *  # noqa: F403
