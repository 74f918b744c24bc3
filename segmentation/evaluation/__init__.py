"""Scores of finished predictions, from any tool, with intervals; and runs set beside each other."""
