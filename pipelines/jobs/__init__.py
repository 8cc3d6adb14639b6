"""Passes at the store: plan, read, hand out, commit."""
