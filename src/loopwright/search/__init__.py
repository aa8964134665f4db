"""Search for hyper-parameters with Optuna: each trial a run of its own."""
