"""Applying a network to images of any size; pure functions that take a callable."""
