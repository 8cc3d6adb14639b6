"""How good a detector is, and series to try it on."""
