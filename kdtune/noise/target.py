"""Noise on the targets that the student is trained on, redrawn for every batch. No knob lives here yet.

Called as `knob(labels, classes, draw) -> targets` with labels int64 [N] in [0, classes); the targets are labels again
or soft targets, float [N, classes], rows summing to 1. Only the cross-entropy sees them.
"""
