"""Agent memory in SQL: one store for SQLite and PostgreSQL."""
