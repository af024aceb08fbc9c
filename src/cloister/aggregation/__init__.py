"""The arithmetic of a round: vectors, their weighted mean, and the strategy that makes the next model of it."""
