"""What tests of the service share beside the databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nursery import NURSERY


@pytest.fixture(scope="session", autouse=True)
def _nursery() -> Iterator[None]:
    """Close the nursery when its tests have ended."""
    yield
    NURSERY.close()
