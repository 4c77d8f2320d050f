"""SQL: migrations, writing, reading, what the indexer keeps, and a Postgres of our own."""
