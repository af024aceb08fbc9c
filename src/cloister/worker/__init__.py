"""Where tensors live: what a session holds, the operations run on it, and the limits on both."""
