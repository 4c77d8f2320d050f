"""Between the span processor and Postgres: where records wait, and the thread that writes them."""
