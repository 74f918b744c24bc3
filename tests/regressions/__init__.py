"""Situations that users of similar projects reported, made anew with synthetic pixels."""
