"""Agent memory that is held in memory: the state of a store, and the verbs over it."""
