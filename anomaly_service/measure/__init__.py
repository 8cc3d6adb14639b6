"""Backtests, replays and the demo, with their reports."""
