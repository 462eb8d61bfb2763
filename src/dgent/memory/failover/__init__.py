"""A chain of stores as one: the router, its state, what waits for the first store, and the manifest."""
