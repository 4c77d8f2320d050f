"""The policies that come with Luthien, one module each, and what they are made of."""
