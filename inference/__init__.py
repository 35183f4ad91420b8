"""Model folder + scans -> segmentations. Never imports a trainer: a model says what it needs."""
