"""How fast D-gent is, as a ratio to the bare driver in the same run."""
