"""The machine, as a training sees it."""
