"""Exported networks: what their files hold, how they are made, and what runs them."""
