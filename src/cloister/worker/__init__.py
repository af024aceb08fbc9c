"""Where tensors live: what a session holds, the operations run on it, the limits on both; and local training."""
