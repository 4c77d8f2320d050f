"""One file a question; each answers it with a ratio, measured in one run."""
