"""Noise in the dataset's labels, drawn once and kept: no other knob and no metric sees the clean label afterwards.

No knob lives here yet. Called as `knob(labels, classes, draw) -> labels` with all labels of a dataset, int64 [N] in
[0, classes), and a draw made from the dataset's seed, so that teacher and student are given the same wrong labels.
"""
