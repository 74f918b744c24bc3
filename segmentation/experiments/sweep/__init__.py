"""Sweeps: files in W&B's schema, which W&B's agents or our own execute."""
