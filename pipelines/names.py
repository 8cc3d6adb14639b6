"""Names a config may give beside those of detectors; imports nothing, as the command line begins here."""

AUTO = "auto"
"""The automatic detector: models chosen for every target."""
