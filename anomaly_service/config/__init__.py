"""The config file: one YAML file, checked as a whole before anything acts on it."""
