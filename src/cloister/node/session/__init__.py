"""A researcher's sessions at a node: each has an executor, a process of its own where its tensors live."""
