"""What runs inside a worker process: a bank fits, scores and judges; no store."""
