"""SQLite: a writer thread that commits in groups, readers, ORM sessions, and the files themselves."""
