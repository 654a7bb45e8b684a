"""Training as pure functions: losses, optimizers, schedules, loss scale, EMA, and the step itself."""
