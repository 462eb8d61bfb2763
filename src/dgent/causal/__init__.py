"""Order without a wall clock: generations, logs that are chained, checkpoints, and the bell that tells of them."""
