"""What `luthien doctor` looks at, one module a subject."""
