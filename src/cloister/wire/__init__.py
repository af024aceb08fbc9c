"""What travels: frames, messages and tensors' specifications, with a limit on every length. No sockets, no torch."""
