"""D-gent: the data layer under agents."""
