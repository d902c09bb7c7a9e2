from kdtune.tables import *  # noqa: F403
