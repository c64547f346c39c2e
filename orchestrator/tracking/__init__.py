"""What becomes of a run folder in MLflow: the mirror, its process beside the driver, and the pages on its store."""
