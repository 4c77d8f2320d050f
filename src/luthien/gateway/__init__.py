"""The door: who comes in, which configuration their call goes by, and who serves it."""
