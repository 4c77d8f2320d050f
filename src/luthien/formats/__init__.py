"""What requests, responses and streams mean in each wire format. Pure."""
