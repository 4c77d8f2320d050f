"""A call in the forms that other tools read. Pure; takes time for large payloads."""
