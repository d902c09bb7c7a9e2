"""One run from start to end: `run` is the table of contents."""
