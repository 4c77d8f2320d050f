"""The record in the terminal: `luthien calls list|show|diff|export`."""
