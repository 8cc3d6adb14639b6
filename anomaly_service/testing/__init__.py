"""The contracts as functions: hold a detector, a source or an executor of your own to what ours keep.

>>> from anomaly_service.testing import check_detector
>>> from detectors.robust_z import RobustZDetector
>>> check_detector(RobustZDetector)
"""

from __future__ import annotations

from anomaly_service.testing.detectors import check_detector
from anomaly_service.testing.executors import check_executor
from anomaly_service.testing.sources import check_source

__all__ = ["check_detector", "check_executor", "check_source"]
