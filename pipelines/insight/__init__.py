"""Answers about what is stored."""
