"""What may change a call: the policies, the chain that runs them, and how a stream is shown to each."""
