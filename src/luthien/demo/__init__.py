"""`luthien demo`: a real small model, and eight calls to it."""
