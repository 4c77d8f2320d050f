"""One call: what is stored of it, how complete that is, what came of it in a sentence, and when what happened."""
