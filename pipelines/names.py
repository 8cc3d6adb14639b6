"""Names that stand for no detector and may be given as one; imports nothing, as the command line begins here."""

AUTO = "auto"
"""The automatic detector in a config: models chosen for every target."""
