"""Plans: the loss of a batch and its gradients, as a list of operations that can be read, hashed and checked."""
