"""Alembic migrations; run by ``anomaly migrate`` from a checkout or an installed wheel."""
