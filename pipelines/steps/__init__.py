"""What happens to series: pure functions of arrays and frozen dataclasses."""
