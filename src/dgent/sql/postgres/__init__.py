"""PostgreSQL: pooled connections, batched reads and writes, what a server refuses."""
