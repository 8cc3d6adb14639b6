"""``python -m anomaly_service`` is ``anomaly``."""

from anomaly_service.cli import main

if __name__ == "__main__":
    main()
