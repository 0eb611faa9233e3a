"""Training of SalFoM with accelerate: configuration, model, data, loop, checkpoints, report."""
