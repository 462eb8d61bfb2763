"""Agent memory in a JSONL file: the backend, its journal, and the form of a line."""
