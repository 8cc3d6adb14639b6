"""The daemon: what is due, who does it, and what it tells."""
