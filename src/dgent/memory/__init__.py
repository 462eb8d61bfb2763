"""Agent memory: datums in memory, in a JSONL file, in SQLite and in PostgreSQL."""
