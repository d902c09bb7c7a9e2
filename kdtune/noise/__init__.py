"""Sources of noise, a module per injection point: `input`, `teacher`, `target`, `labels`. `knob` says what all are."""
