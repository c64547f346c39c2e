"""Many trainings: sweep file, search space, ledger, run folder, Ray, MLflow mirror, the `aiqn` command."""
